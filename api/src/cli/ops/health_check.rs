//! `fulexo health-check`: the state of the whole service, for an operator at three in the morning.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use clap::builder::PossibleValuesParser;
use fulexo_node::config;
use fulexo_ops::audit::database::target;
use fulexo_ops::headers::parse_url;
use fulexo_ops::health::{
    CHECKS, CertificateName, HealthRequest, LogTrust, MOST_SERVICES, NatsAccess, ServiceAddress, check,
};
use fulexo_ops::tls::{TlsPolicy, machine_roots, roots_from_pem};
use fulexo_tlog::policy::TrustPolicy;
use url::Url;
use zeroize::Zeroizing;

use super::ReportArgs;
use super::backup::address;
use crate::cli::audit::trust::TrustArgs;
use crate::cli::failure::Failure;
use crate::cli::process::block_on_and_leave;

#[derive(Args)]
pub struct HealthCheckArgs {
    /// Ask the node, or the proxy, at this URL instead of the node of this machine. Repeat the option for each node.
    #[arg(long = "url", value_name = "URL", value_parser = parse_url)]
    urls: Vec<Url>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Trust the authorities in this PEM file, and no others. Without it, those that this machine trusts.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Find certificates that end within so many days.
    #[arg(long, value_name = "DAYS", default_value_t = 21, value_parser = clap::value_parser!(u16).range(..=3650))]
    certificate_days: u16,
    /// Find that the newest verified backup in FULEXO_BACKUP_TO is older than so many hours.
    #[arg(long, value_name = "HOURS", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..=87_600))]
    max_backup_age: u32,
    /// Leave this check out. Repeat the option for several.
    #[arg(long, value_name = "CHECK", value_parser = PossibleValuesParser::new(CHECKS.map(|check| check.id)))]
    without: Vec<String>,
    /// End within so many seconds, whatever answers.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=60))]
    timeout: u8,
    #[command(flatten)]
    report: ReportArgs,
}

impl HealthCheckArgs {
    pub fn run(self) -> Result<(), Failure> {
        let request = self.request()?;
        let urls = request.services.iter().map(ServiceAddress::label);
        let database = request.database.iter().map(|url| target(url));
        let target = urls.chain(database).collect::<Vec<_>>().join(", ");
        block_on_and_leave(async { self.report.print_overview(&check(&request, target).await) })
    }

    fn request(&self) -> Result<HealthRequest, Failure> {
        if self.urls.len() > MOST_SERVICES {
            return Err(Failure::Misused(format!("--url: at most {MOST_SERVICES} can be asked at once")));
        }
        let services = self.services()?;
        let database = database()?;
        let certificate = variable("TLS_CERT").map(|path| PathBuf::from(&*path));
        if services.is_empty() && database.is_none() {
            let text = "nothing is known that could be checked: set the variables of a node, or give --url";
            return Err(Failure::Misused(text.to_owned()));
        }
        let patience = Duration::from_secs(self.timeout.into());
        let credentials = variable("NATS_CREDS").map(|path| PathBuf::from(&*path));
        Ok(HealthRequest {
            services,
            database,
            nats: variable("NATS_URL").map(|urls| NatsAccess { urls, credentials }),
            certificate,
            tls: self.tls_policy(patience)?,
            backups: variable("FULEXO_BACKUP_TO").map(|place| address(PathBuf::from(&*place))).transpose()?,
            max_backup_age: TimeDelta::hours(self.max_backup_age.into()),
            trust: self.log_trust()?,
            key_epoch: config::key_epoch()?,
            without: self.without.clone(),
            patience,
        })
    }

    /// Returns the URLs that are given, else that of the node of this machine, if the variables are those of one.
    fn services(&self) -> Result<Vec<ServiceAddress>, Failure> {
        if !self.urls.is_empty() {
            let given = self.urls.iter().map(|url| ServiceAddress { url: url.clone(), name: CertificateName::OfUrl });
            return Ok(given.collect());
        }
        let is_node = ["DATABASE_URL", "FULEXO_PORT", "FULEXO_BIND"].into_iter().any(|name| variable(name).is_some());
        Ok(if is_node { vec![own_address()?] } else { Vec::new() })
    }

    fn tls_policy(&self, patience: Duration) -> Result<TlsPolicy, Failure> {
        let roots = match &self.ca {
            None => machine_roots(),
            Some(path) => {
                let misused = |reason: String| Failure::Misused(format!("--ca: {}: {reason}", path.display()));
                let pem = std::fs::read(path).map_err(|error| misused(error.to_string()))?;
                let roots = roots_from_pem(&pem);
                roots.ok_or_else(|| misused("it has no certificate in PEM that can be trusted".to_owned()))?
            }
        };
        Ok(TlsPolicy { roots, horizon: TimeDelta::days(self.certificate_days.into()), patience })
    }

    /// Returns the keys of the arguments, else those of the node's policy.
    fn log_trust(&self) -> Result<LogTrust, Failure> {
        if let Some(given) = self.trust.given()? {
            // The same text was read as a policy a moment ago.
            let policy = given.policy_text.as_ref().and_then(|text| TrustPolicy::parse(text).ok());
            return Ok(LogTrust { logs: given.logs().to_vec(), policy, problem: None });
        }
        let Some(path) = variable("FULEXO_TRUST_POLICY_FILE") else { return Ok(LogTrust::default()) };
        // The rest is checked all the same.
        let read = std::fs::read(&*path).map_err(|error| error.to_string());
        let policy = read.and_then(|text| TrustPolicy::parse(&text).map_err(|error| error.to_string()));
        Ok(match policy {
            Ok(policy) => LogTrust { logs: policy.logs.clone(), policy: Some(policy), problem: None },
            Err(reason) => {
                LogTrust { problem: Some(format!("FULEXO_TRUST_POLICY_FILE: {reason}")), ..LogTrust::default() }
            }
        })
    }
}

/// Returns a variable. An empty one counts as unset.
fn variable(name: &str) -> Option<Zeroizing<String>> {
    let value = Zeroizing::new(std::env::var(name).ok()?);
    (!value.trim().is_empty()).then(|| Zeroizing::new(value.trim().to_owned()))
}

/// Returns the URL of the database: that of the service, else that of the owner.
fn database() -> Result<Option<Zeroizing<String>>, Failure> {
    if variable("DATABASE_URL").is_some() {
        return Ok(Some(Zeroizing::new(config::database_url()?)));
    }
    if variable("DATABASE_OWNER_URL").is_some() {
        return Ok(Some(Zeroizing::new(config::owner_database_url()?)));
    }
    Ok(None)
}

/// Returns the address of the node of this machine, by its variables.
fn own_address() -> Result<ServiceAddress, Failure> {
    let port = variable("FULEXO_PORT").map_or_else(|| "8080".to_owned(), |port| port.to_string());
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Failure::Misused("FULEXO_PORT names no port: give --url".to_owned()))?;
    let bind = variable("FULEXO_BIND").map_or_else(|| "127.0.0.1".to_owned(), |bind| bind.to_string());
    let host = match bind.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => return Err(Failure::Misused("FULEXO_BIND is not an address: give --url".to_owned())),
    };
    let domains = variable("ACME_DOMAINS");
    let has_tls = domains.is_some() || variable("TLS_CERT").is_some();
    let scheme = if has_tls { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{host}:{port}"));
    let url = url.map_err(|_| Failure::Misused("FULEXO_BIND and FULEXO_PORT are no address: give --url".to_owned()))?;
    let host_of = |name| Url::parse(&variable(name)?).ok()?.host_str().map(str::to_owned);
    let first = domains.as_deref().and_then(|names| names.split(',').next());
    let name = first.map(|name| name.trim().to_owned());
    let name = name.or_else(|| host_of("FULEXO_PUBLIC_URL")).or_else(|| host_of("FULEXO_ISSUER"));
    let name = name.and_then(|name| name.try_into().ok());
    Ok(ServiceAddress { url, name: name.map_or(CertificateName::Unknown, CertificateName::Given) })
}
