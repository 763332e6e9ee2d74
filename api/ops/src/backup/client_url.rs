//! A database's URL for the programs of PostgreSQL: everything but the password, which other users of the machine would see in
//! the list of processes.

use std::path::Path;
use std::process::{Command, Stdio};

use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use super::error::BackupError;

/// A URL without its password, and the password.
pub struct ClientUrl {
    url: Url,
    password: Option<Zeroizing<String>>,
}

impl ClientUrl {
    /// Divides a URL.
    ///
    /// # Errors
    /// If it is not the URL of a PostgreSQL database. The text does not repeat it.
    pub fn parse(url: &str) -> Result<Self, BackupError> {
        let malformed = || BackupError::Database("the URL is not one of PostgreSQL".to_owned());
        let mut url = Url::parse(url).map_err(|_| malformed())?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(malformed());
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let mut password = url.password().map(decode).transpose().map_err(|_| malformed())?.map(Zeroizing::new);
        if password.is_some() {
            url.set_password(None).map_err(|()| malformed())?;
        }
        let mut kept = Vec::new();
        for (name, value) in url.query_pairs() {
            // As sqlx spells them, and as libpq does. What only sqlx knows is left out: libpq would refuse it.
            let name = match &*name {
                "password" => {
                    password = Some(Zeroizing::new(value.into_owned()));
                    continue;
                }
                "ssl-mode" => "sslmode",
                "ssl-root-cert" | "ssl-ca" => "sslrootcert",
                "ssl-cert" => "sslcert",
                "ssl-key" => "sslkey",
                "statement-cache-capacity" | "application_name" | "options" => continue,
                other => other,
            };
            kept.push((name.to_owned(), value.into_owned()));
        }
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
        Ok(Self { url, password })
    }

    /// Returns a command of a program of PostgreSQL, without the variables of this process, among which are secrets.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = bare_command(program);
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", &**password);
        }
        for (name, value) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            if name != "PGPASSWORD" || self.password.is_none() {
                command.env(name, value);
            }
        }
        command.env("PGAPPNAME", "fulexo backup").env("PGCONNECT_TIMEOUT", "30");
        command.arg("--no-password").arg("--dbname").arg(self.url.as_str());
        command
    }
}

/// Returns a command without the variables of this process.
pub(super) fn bare_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Its errors are told apart by English words.
    command.env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_has_the_password() {
        for url in [
            "postgres://ann:s%40cret@db:5432/fulexo?ssl-mode=require&statement-cache-capacity=1",
            "postgresql://ann@db:5432/fulexo?sslmode=require&password=s%40cret",
        ] {
            let command = ClientUrl::parse(url).unwrap().command(Path::new("pg_dump"));
            let arguments: Vec<_> = command.get_args().map(|it| it.to_string_lossy().into_owned()).collect();
            assert!(arguments.last().unwrap().ends_with("//ann@db:5432/fulexo?sslmode=require"), "{arguments:?}");
            // A URL without a host, for a socket, has no password to remove.
            assert!(ClientUrl::parse("postgres:///fulexo?host=/run/postgresql").is_ok());
            let password = command.get_envs().find(|(name, _)| *name == "PGPASSWORD").unwrap().1.unwrap();
            assert_eq!(password, "s@cret");
        }
    }

    #[test]
    fn another_url_is_refused_and_not_repeated() {
        let refused = ClientUrl::parse("https://ann:secret@db/x").err().unwrap();
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }
}
