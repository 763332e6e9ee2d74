//! The listeners of the service: HTTP, or HTTPS and the plain listener that redirects to it. `http::listener` decides
//! what a connection may do.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use poem::{Endpoint, Response};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Environment};
use crate::http::cors::Origins;
use crate::http::listener::{self, Reserved};
use crate::http::listener_options::{self, ListenerOptions};
use crate::http::{self, EdgeOptions};
use crate::start_error::{StartError, failed};
use crate::state::App;
use crate::tls::acceptor::Secured;
use crate::tls::redirect::Redirect;
use crate::tls::{Source, Tls};

/// The addresses to listen on, and the proxies to believe there.
pub(super) struct Listen {
    reserved: Reserved,
    address: SocketAddr,
    tls: Option<Source>,
    redirect: Option<(Reserved, SocketAddr)>,
    trusted_proxies: Vec<IpNet>,
    origins: Origins,
    has_front_page: bool,
    public_url: Option<Arc<str>>,
}

impl Listen {
    /// Takes it out of the configuration and reserves the ports, unless the first one is reserved already.
    ///
    /// # Errors
    /// If one is taken.
    pub fn take(config: &mut Config, reserved: Option<Reserved>) -> Result<Self, StartError> {
        let address = (config.bind, config.port).into();
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => reserve(address, PORT)?,
        };
        let redirect = match config.http_port {
            Some(port) => {
                let address = (config.bind, port).into();
                Some((reserve(address, HTTP_PORT)?, address))
            }
            None => None,
        };
        Ok(Self {
            reserved,
            address,
            tls: config.tls.take(),
            redirect,
            trusted_proxies: std::mem::take(&mut config.trusted_proxies),
            origins: std::mem::take(&mut config.origins),
            has_front_page: config.environment == Environment::Development,
            public_url: config.mail.as_ref().map(|mail| mail.public_url.as_str().into()),
        })
    }
}

impl Listen {
    /// An address of this machine alone, over plain HTTP.
    pub fn on_loopback(reserved: Reserved) -> Self {
        let address = (Ipv4Addr::LOCALHOST, reserved.port().unwrap_or_default()).into();
        Self {
            reserved,
            address,
            tls: None,
            redirect: None,
            trusted_proxies: Vec::new(),
            origins: Origins::default(),
            has_front_page: false,
            public_url: None,
        }
    }
}

/// Listeners that run.
pub(super) struct Listening {
    pub port: u16,
    pub scheme: &'static str,
    pub http_port: Option<u16>,
    pub stop_http: watch::Sender<bool>,
    pub http: JoinSet<()>,
}

impl Listening {
    pub async fn on<F, E>(listen: Listen, app: &Arc<App>, faces: F) -> Result<Self, StartError>
    where
        F: FnOnce(Arc<App>, bool) -> Result<E, StartError>,
        E: Endpoint<Output = Response> + 'static,
    {
        let Listen { reserved, address, tls, redirect, trusted_proxies, origins, has_front_page, public_url } = listen;
        let acceptor = reserved.listen().map_err(|error| unavailable(address, PORT, &error))?;
        let port = listener::port(&acceptor).unwrap_or(address.port());
        // Without limits on addresses, there is no limit on the connections of one address.
        let exempt = trusted_proxies.clone();
        let bounds = |max_connections| ListenerOptions {
            max_connections,
            max_per_address: app.limits.as_ref().map(|_| listener_options::share(max_connections)),
            exempt: exempt.clone(),
            ..ListenerOptions::default()
        };
        let (limits, tasks) = (app.limits.clone(), app.tasks.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let edge =
            EdgeOptions { trusted_proxies, origins, limits, tasks, public_url, scheme, ..EdgeOptions::default() };
        let endpoint = http::stack(faces(Arc::clone(app), has_front_page)?, edge);
        let options = bounds(ListenerOptions::default().max_connections);
        let (stop_http, stopped) = watch::channel(false);
        let mut http = JoinSet::new();
        let Some(source) = tls else {
            http.spawn(listener::serve(acceptor, endpoint, options, told_to(stopped)));
            return Ok(Self { port, scheme: "http", http_port: None, stop_http, http });
        };

        // Listens before a directory can come and look.
        let redirect = match redirect {
            Some((reserved, address)) => {
                Some(reserved.listen().map_err(|error| unavailable(address, HTTP_PORT, &error))?)
            }
            None => None,
        };
        let http_port = redirect.as_ref().and_then(listener::port);
        let tls = Tls::open(source, app.commands.vault()).await.map(Arc::new).map_err(StartError)?;
        let config = tls.server_config().map_err(|error| failed("TLS", &error))?;
        if let Some(acceptor) = redirect {
            let endpoint = Redirect::new(Arc::clone(&tls), port);
            http.spawn(listener::serve(acceptor, endpoint, bounds(1_000), told_to(stopped.clone())));
        }
        http.spawn(async move {
            listener::serve(Secured::new(acceptor, config), endpoint, options, told_to(stopped)).await;
            // The certificate is kept current as long as somebody is served with it.
            drop(tls);
        });
        Ok(Self { port, scheme: "https", http_port, stop_http, http })
    }
}

/// Ways to choose another port.
const PORT: &str = "--port 0 takes a free one";
const HTTP_PORT: &str = "set FULEXO_HTTP_PORT";

/// Reserves the address that the service itself listens on.
///
/// # Errors
/// If it is taken, or is not this process's to take.
pub fn reserve_port(address: SocketAddr) -> Result<Reserved, StartError> {
    reserve(address, PORT)
}

fn reserve(address: SocketAddr, otherwise: &str) -> Result<Reserved, StartError> {
    Reserved::new(address).map_err(|error| unavailable(address, otherwise, &error))
}

fn unavailable(address: SocketAddr, otherwise: &str, error: &io::Error) -> StartError {
    let (port, host) = (address.port(), address.ip());
    StartError(match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "cannot listen on {address}: another program uses the port. Stop it, or choose another port ({otherwise})"
            )
        }
        ErrorKind::PermissionDenied => {
            format!("cannot listen on {address}: port {port} needs the capability CAP_NET_BIND_SERVICE")
        }
        ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {address}: {host} is not an address of this machine. Choose another with --bind")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

async fn told_to(mut stopped: watch::Receiver<bool>) {
    // An error says that the sender is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
