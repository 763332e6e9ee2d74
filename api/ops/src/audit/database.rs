//! The audit's connection to the database: it can change nothing, and is in nobody's way.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

/// The longest time to connect.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a connection on which transactions are read-only, no lock is waited for longer than 200 ms, and no statement takes
/// longer than a minute.
///
/// # Errors
/// [`sqlx::Error`], which repeats no part of the URL.
pub async fn open(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?.application_name("fulexo security-audit").options([
        ("default_transaction_read_only", "on"),
        ("lock_timeout", "200ms"),
        ("statement_timeout", "60s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ]);
    match timeout(PATIENCE, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::other("the database did not respond within 10 seconds"))),
    }
}

/// Returns a name for the database that reports are compared by, without user and password.
#[must_use]
pub fn target(url: &str) -> String {
    PgConnectOptions::from_str(url).map_or_else(
        |_| "a database".to_owned(),
        |options| {
            let database = options.get_database().unwrap_or(options.get_username());
            format!("{database} on {}:{}", options.get_host(), options.get_port())
        },
    )
}

/// `true` if connections by this URL verify the certificate of the server.
#[must_use]
pub fn verifies(url: &str) -> bool {
    PgConnectOptions::from_str(url)
        .is_ok_and(|options| matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull))
}
