//! The edge: what happens to every request before a handler sees it and to every response after.
//!
//! One layer per file, all of them in the one list in `Edge::call`. It knows nothing of accounts or tokens: `caller.rs`
//! and the routes find out who calls and what they may do.

pub mod authority;
mod bad_input;
pub mod basic;
mod body_budget;
mod body_limit;
pub mod cached;
pub mod client_address;
mod connections;
pub mod cookies;
pub mod cors;
pub mod files;
pub mod form_body;
pub mod headers;
pub mod json_body;
pub mod listener;
pub mod listener_options;
mod media_type;
pub mod operations;
pub mod panic;
pub mod parameters;
pub mod problem;
mod request_head;
pub mod request_id;
pub mod standing;
mod strict_json;
mod timeout;
pub mod trace;

use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use poem::http::{HeaderValue, StatusCode, Version, header};
use poem::{Endpoint, IntoEndpoint, IntoResponse, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::Instrument;

use self::body_budget::BodyBudget;
pub use self::client_address::ClientAddress;
use self::cors::Origins;
pub use self::form_body::FormBody;
pub use self::json_body::JsonBody;
pub use self::operations::Operations;
pub use self::parameters::BadParameters;
pub use self::problem::Problem;
use self::problem::{Base, conversion};
pub use self::request_id::RequestId;
use crate::limits::Limits;
use crate::tasks::CommandTasks;

/// The most requests that handlers work on at a time.
pub const MAX_IN_FLIGHT: usize = 1_024;

/// The options of the edge.
#[derive(Clone)]
pub struct EdgeOptions {
    /// The networks of our own reverse proxies; only they are believed about the client's address.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest body, in bytes.
    pub body_limit: usize,
    /// The most bytes of all bodies at a time, and fifty times the most of one address; further ones get 503.
    pub body_budget: usize,
    /// The time limit for the arrival of a body.
    pub body_timeout: Duration,
    /// The time limit for a request, its body included, up to the head of the response.
    pub request_timeout: Duration,
    /// The most requests that handlers work on at a time, commands whose clients have left among them; further ones get
    /// 503. Requests about health are not counted.
    pub max_in_flight: usize,
    /// The tasks that commands run in.
    pub tasks: CommandTasks,
    /// The limits on the requests of an address, if there are any.
    pub limits: Option<Arc<Limits>>,
    /// The origins whose pages may read answers.
    pub origins: Origins,
    /// The URL of the service, as its operator says. Without it, the place where a request finds the service, by
    /// `scheme`.
    pub public_url: Option<Arc<str>>,
    /// `http` or `https`.
    pub scheme: &'static str,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            body_limit: 64 * 1024,
            body_budget: 64 * 1024 * 1024,
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_in_flight: MAX_IN_FLIGHT,
            tasks: CommandTasks::default(),
            limits: None,
            origins: Origins::default(),
            public_url: None,
            scheme: "http",
        }
    }
}

/// Puts the edge around the whole application. It never answers with an error: a refusal is a response by then.
pub fn stack<A>(app: A, options: EdgeOptions) -> impl Endpoint<Output = Response>
where
    A: IntoEndpoint,
    A::Endpoint: 'static,
{
    let bodies = BodyBudget::of(options.body_budget);
    let in_flight = Arc::new(Semaphore::new(options.max_in_flight));
    Edge { app: Arc::new(app.into_endpoint()), in_flight, bodies, options }
}

/// One endpoint and not a nest of middlewares: each of those would box a future for every request.
struct Edge<E> {
    app: Arc<E>,
    in_flight: Arc<Semaphore>,
    bodies: Arc<BodyBudget>,
    options: EdgeOptions,
}

impl<E: Endpoint + 'static> Endpoint for Edge<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        // 1. The id first: all that follows, refusals and log lines too, carries it.
        let id = RequestId::draw();
        request.set_data(id);

        // 2. The record of the request next, so that it is written however the request ends.
        let record = trace::Record::begin(id, &mut request);

        // 3. The address, and how many requests it has sent, before this one costs anything.
        let address = client_address::of(&request, &self.options.trusted_proxies);
        request.set_data(address);
        let mut standing = None;
        let admitted = match &self.options.limits {
            Some(limits) => limits.address(address.0).map(|it| {
                standing = Some(it);
                request.set_data(Arc::clone(limits));
            }),
            None => Ok(()),
        };

        // 4. Its head: the host that it names, what nobody here reads, and what a browser adds: the page that sent the
        // request, and cookies.
        let named = authority::of(&request);
        let sound = request_head::check(&request);
        let listed = self.options.origins.listed(&request);
        let own = named.as_ref().ok().and_then(Option::as_ref);
        cookies::present(&mut request, own, listed.is_some());
        let (public, scheme) = (self.options.public_url.clone(), self.options.scheme);
        let base = Base { public, scheme, host: named.as_ref().ok().cloned().flatten() };
        let preflight = listed.as_ref().and_then(|_| cors::preflight(&request));

        let version = request.version();
        let deadline = record.began() + self.options.request_timeout;
        // Each layer is pinned where it stands: handed on by value, the request would be copied at every step.
        let answered = pin!(async {
            let handled = pin!(async {
                admitted?;
                named?;
                sound?;
                if let Some(preflight) = preflight {
                    return Ok(preflight);
                }
                // 5. The whole body before the handler, which then never waits for the client.
                let take = |bytes| self.bodies.take(address.0, bytes);
                body_limit::read(&mut request, self.options.body_limit, self.options.body_timeout, take).await?;
                // 6. A place among those that are worked on, which nobody holds who is slow to send.
                let place = self.place(&request)?;
                // 7. A command runs in a task of its own, and holds its place there: here it is only waited for.
                let is_safe = request.method().is_safe();
                let request = mem::take(&mut request);
                if !is_safe {
                    return self
                        .command(request, id, base.clone(), place)
                        .await
                        .map_err(|_| Problem::panicked().into());
                }
                E::call(&self.app, request).await.map(IntoResponse::into_response)
            });
            // 8. The time limit around the body too: waiting is waiting.
            let ended = pin!(timeout::by(deadline, handled));
            // 9. Panics around all that can panic.
            let result = panic::caught(ended).await;
            // 10. Problems after all that can refuse, and inside the span: an internal one is logged here.
            conversion::answer(result, id, &base)
        });
        let mut response = answered.instrument(trace::span(id)).await;

        // 11. Headers last, on the response as it is by now.
        headers::secure(response.headers_mut());
        if let Some(value) = id.header_value() {
            response.headers_mut().insert(request_id::HEADER, value);
        }
        if let Some(standing) = standing {
            standing.write(response.headers_mut());
        }
        self.options.origins.write(response.headers_mut(), listed);
        close_behind_an_unread_body(&mut response, version);
        record.end(response.status());
        Ok(response)
    }
}

impl<E: Endpoint + 'static> Edge<E> {
    /// Runs the command to its end, even if the client leaves or its time runs out: nothing is left half done.
    fn command(
        &self,
        request: Request,
        id: RequestId,
        base: Base,
        place: Option<OwnedSemaphorePermit>,
    ) -> oneshot::Receiver<Response> {
        let (answer, answered) = oneshot::channel();
        let app = Arc::clone(&self.app);
        self.options.tasks.start(async move {
            let _place = place;
            let handled = pin!(E::call(&app, request));
            let result = panic::caught(async { handled.await.map(IntoResponse::into_response) }).await;
            // Here, so that what fails is logged, also where nobody waits for it.
            let response = conversion::answer(result, id, &base);
            if let Err(response) = answer.send(response) {
                tracing::info!(status = response.status().as_u16(), "the command ended after its client had left");
            }
        });
        answered
    }

    fn place(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if request.uri().path().starts_with("/health/") {
            return Ok(None);
        }
        Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| Problem::overloaded(Duration::from_secs(1)))
    }
}

/// The rest of a refused body is still on its way. In HTTP/1 no other request can follow it, so say that the
/// connection ends (RFC 9110 section 15.5.9); HTTP/2 just resets the stream.
fn close_behind_an_unread_body(response: &mut Response, version: Version) {
    let unread = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE];
    if version < Version::HTTP_2 && unread.contains(&response.status()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
