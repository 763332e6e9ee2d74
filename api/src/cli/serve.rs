//! `fulexo serve`: one node of the service.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use fulexo_node::config::Config;
use fulexo_node::start::RunningNode;
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::process::{StopSignals, block_on, start_logging};
use crate::faces;

#[derive(Args)]
pub struct ServeArgs {
    /// Listen on this port; 0 lets the system choose [default: FULEXO_PORT, or 8080].
    #[arg(long)]
    port: Option<u16>,
    /// Listen on this address [default: FULEXO_BIND, or 127.0.0.1].
    #[arg(long)]
    bind: Option<IpAddr>,
    /// Print the URLs on which the node listens as JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl ServeArgs {
    pub fn run(self) -> Result<(), Failure> {
        let mut config = Config::from_env()?;
        config.port = self.port.unwrap_or(config.port);
        config.bind = self.bind.unwrap_or(config.bind);
        start_logging(config.environment, "info");
        block_on(async {
            let bind = config.bind;
            let mut stop = StopSignals::listen()?;
            let running = tokio::select! {
                running = RunningNode::start(config, faces::endpoint) => running?,
                // No request was answered yet.
                () = stop.received() => return Ok(()),
            };
            // On standard output: the port is not known before if the system chooses it.
            let mut out = Output::new();
            let url = format!("{}://{}", running.scheme, SocketAddr::new(bind, running.port));
            let redirect = running.http_port.map(|port| format!("http://{}", SocketAddr::new(bind, port)));
            if self.json {
                out.line(json!({"listening_on": url, "redirecting_from": redirect}))?;
            } else {
                out.line(format_args!("listening on {url}"))?;
            }
            if let Some(redirect) = redirect.filter(|_| !self.json) {
                out.line(format_args!("redirecting from {redirect}"))?;
            }
            stop.received().await;
            running.stop().await;
            Ok(())
        })
    }
}
