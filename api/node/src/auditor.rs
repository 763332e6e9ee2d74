//! The door of a replay of the trail: on the auditor's own machine, for the auditor alone, and for reading alone.
//!
//! It stands before all faces. No route is listed here: one that is added later is behind the door, too.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fulexo_commands::vault::RandomnessError;
use fulexo_commands::vault::crypto::{equal, random_bytes};
use poem::http::uri::Authority;
use poem::http::{HeaderValue, Method, header};
use poem::{Endpoint, IntoResponse, Request, Response};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::caller::Auditor;
use crate::http::cookies::ByCookie;
use crate::http::{Problem, authority};

/// The names of this machine that a request may have in `Host`.
const OWN_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The token of one run, drawn when it starts. No `Debug`; wiped when dropped.
pub struct AuditorToken {
    text: Zeroizing<String>,
    auditor: Auditor,
}

impl AuditorToken {
    /// Draws a token.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn draw() -> Result<Self, RandomnessError> {
        let bytes = Zeroizing::new(random_bytes::<32>()?);
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        Ok(Self { text, auditor: Auditor { id: Uuid::from_bytes(random_bytes()?) } })
    }

    /// Returns the text, for whoever has started the run.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn is_presented_by(&self, request: &Request) -> bool {
        // A browser sends a cookie by itself, whoever's page asks.
        let is_by_cookie = request.data::<ByCookie>().is_some();
        !is_by_cookie && presented(request).is_some_and(|token| equal(token.as_bytes(), self.text.as_bytes()))
    }
}

/// Puts the door before the faces.
pub fn door_before<E>(faces: E, token: AuditorToken) -> impl Endpoint<Output = Response>
where
    E: Endpoint<Output = Response> + 'static,
{
    AuditorDoor { faces, token }
}

struct AuditorDoor<E> {
    faces: E,
    token: AuditorToken,
}

impl<E: Endpoint<Output = Response>> Endpoint for AuditorDoor<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        // A page of another site may have its name resolved to this machine.
        if !authority::of(&request)?.is_some_and(|named| is_own(&named)) {
            let detail = "A replay answers on its own machine alone. Name it 127.0.0.1 or localhost.";
            return Err(Problem::invalid_host().with_detail(detail).into());
        }
        if !self.token.is_presented_by(&request) {
            let refusal = match request.headers().contains_key(header::AUTHORIZATION) {
                true => Problem::invalid_token(),
                false => Problem::unauthenticated(),
            };
            return Err(refusal.with_detail("Send the token that `fulexo audit replay` has printed.").into());
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let refusal = Problem::method_not_allowed(Some(HeaderValue::from_static("GET, HEAD")));
            let detail = "This is a replay of an exported trail. It can be read, and nothing in it can be changed.";
            return Err(refusal.with_detail(detail).into());
        }
        request.set_data(self.token.auditor);
        self.faces.call(request).await.map(IntoResponse::into_response)
    }
}

/// `true` for a name of this machine, with any port: the way to it may lead through a tunnel.
fn is_own(named: &Authority) -> bool {
    OWN_NAMES.iter().any(|own| named.host().eq_ignore_ascii_case(own))
}

fn presented(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header(header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
