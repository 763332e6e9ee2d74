//! The requests to an ACME directory (RFC 8555): an account, and an order from its names to a certificate. Proves the
//! names by http-01 alone. Keeps nothing, and tries nothing twice.

use std::pin::Pin;
use std::time::Duration;

use http_body_util::Limited;
use hyper::body::Bytes;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use poem::http::Request;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::provider::provider;

/// The most bytes of one answer; a chain is some thousands.
const MOST_BYTES: usize = 1 << 20;
/// The time that the directory has to look at the names, and to issue.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_secs(60));

/// A directory, and how to reach it.
pub struct Directory {
    url: String,
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
}

impl Directory {
    /// Makes a client of the directory. Without roots of its own it believes the machine's.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn new(url: &str, roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let tls = if roots.is_empty() {
            tls.with_native_roots().map_err(|error| {
                format!("this machine has no root certificates, which ACME_DIRECTORY is checked by: {error}; install ca-certificates")
            })?
        } else {
            let mut store = RootCertStore::empty();
            for root in roots {
                store
                    .add(root.clone())
                    .map_err(|_| "ACME_ROOT contains a certificate that is not a root certificate".to_owned())?;
            }
            tls.with_root_certificates(store)
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth()).https_only().enable_http1().build();
        Ok(Self { url: url.to_owned(), client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// A new account, and what it is opened with again. Agrees to the directory's terms of service.
    ///
    /// # Errors
    /// The error that the directory reported, or the reason why it was not reached.
    pub async fn register(&self, contact: Option<&str>) -> Result<(Account, Zeroizing<Vec<u8>>), Error> {
        let contact = contact.map(|address| format!("mailto:{address}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = self.builder().create(&new, self.url.clone(), None).await?;
        Ok((account, Zeroizing::new(serde_json::to_vec(&credentials)?)))
    }

    /// An account that was registered before.
    ///
    /// # Errors
    /// The error that the directory reported, or the reason why it was not reached.
    pub async fn open(&self, credentials: &[u8]) -> Result<Account, Error> {
        let credentials: AccountCredentials = serde_json::from_slice(credentials)?;
        self.builder().from_credentials(credentials).await
    }

    fn builder(&self) -> instant_acme::AccountBuilder {
        Account::builder_with_http(Box::new(Bounded(self.client.clone())))
    }
}

/// `true` if the directory says that it does not know the account (RFC 8555, section 6.7).
pub fn is_unknown_account(error: &Error) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// Orders a certificate: its chain and a new private key, in PEM, one after the other.
///
/// # Errors
/// The error that the directory reported, or the reason why it was not reached.
pub async fn order(account: &Account, names: &[String]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // Valid ones were proved by an order not long ago; the others cannot be, and the order says so below.
        if authorization.status == AuthorizationStatus::Pending {
            let challenge = authorization.challenge(ChallengeType::Http01);
            challenge.ok_or(Error::Str("the directory does not offer http-01"))?.set_ready().await?;
        }
    }
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) | Err(Error::Api(_)) => return Err(refusal(&mut order).await),
        Err(error) => return Err(error),
    }
    let key = Zeroizing::new(order.finalize().await?);
    let chain = order.poll_certificate(&PATIENCE).await?;
    let pem = [chain.as_bytes(), b"\n", key.as_bytes()].concat();
    Ok(Zeroizing::new(pem))
}

/// Returns the reason why the names were not proved: the problem that the directory saw when it looked.
async fn refusal(order: &mut Order) -> Error {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Error::Api(problem);
        }
    }
    Error::Str("the directory did not accept the proof of the names")
}

/// The client, and a bound on what it is told.
struct Bounded(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for Bounded {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answer = self.0.request(request);
        Box::pin(async move {
            let answer = answer.await.map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(|body| Limited::new(body, MOST_BYTES))))
        })
    }
}
