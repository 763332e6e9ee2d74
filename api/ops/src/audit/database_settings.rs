//! The settings of the database server, and of this connection: durability, encryption, and what the server's log repeats.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row};

use super::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};
use crate::report::Check;

const REFERENCE: &str = "docs/security-audit.md#the-database-server";

const NOT_DURABLE: Rule = Rule {
    id: "database_settings.not_durable",
    title: "a commit that was acknowledged can be lost",
    severity: Severity::High,
    remedy: "Set it to on, and restart the server. A revocation that is lost gives access back.",
    reference: REFERENCE,
};
const TORN_PAGES: Rule = Rule {
    id: "database_settings.torn_pages",
    title: "a loss of power can damage pages of the database",
    severity: Severity::Medium,
    remedy: "Set full_page_writes to on, unless the file system writes pages as a whole.",
    reference: REFERENCE,
};
const NO_CHECKSUMS: Rule = Rule {
    id: "database_settings.no_checksums",
    title: "pages have no checksums, so damage by the disk goes unnoticed",
    severity: Severity::Low,
    remedy: "Stop the server, and run `pg_checksums --enable` on its data directory.",
    reference: REFERENCE,
};
const WEAK_VERIFIERS: Rule = Rule {
    id: "database_settings.weak_verifiers",
    title: "new passwords of database roles are stored as MD5",
    severity: Severity::Medium,
    remedy: "Set password_encryption to scram-sha-256, and set the passwords of all roles again.",
    reference: REFERENCE,
};
const PLAIN_CONNECTION: Rule = Rule {
    id: "database_settings.plain_connection",
    title: "the connection to the database is not encrypted",
    severity: Severity::High,
    remedy: "Set ssl to on at the server, and add sslmode=verify-full to DATABASE_URL.",
    reference: REFERENCE,
};
const UNVERIFIED: Rule = Rule {
    id: "database_settings.unverified_server",
    title: "DATABASE_URL does not verify the database server's certificate",
    severity: Severity::Medium,
    remedy: "Add sslmode=verify-full to DATABASE_URL, and sslrootcert if the authority is your own.",
    reference: REFERENCE,
};
const LISTENS: Rule = Rule {
    id: "database_settings.listens",
    title: "the database server listens on every address of its machine",
    severity: Severity::Low,
    remedy: "Name the addresses in listen_addresses that nodes and standbys use.",
    reference: REFERENCE,
};
const LOGS_VALUES: Rule = Rule {
    id: "database_settings.logs_values",
    title: "the log of the database server repeats values of statements",
    severity: Severity::Medium,
    remedy: "Set log_parameter_max_length and log_parameter_max_length_on_error to 0.",
    reference: REFERENCE,
};
const SYSTEM_TABLES: Rule = Rule {
    id: "database_settings.system_tables",
    title: "the tables of the system can be changed",
    severity: Severity::High,
    remedy: "Set allow_system_table_mods to off, and restart the server.",
    reference: REFERENCE,
};

/// The check.
pub const CHECK: AuditCheck = AuditCheck {
    id: "database_settings",
    title: "the database server is durable, encrypted and discreet",
    rules: &[
        NOT_DURABLE,
        TORN_PAGES,
        NO_CHECKSUMS,
        WEAK_VERIFIERS,
        PLAIN_CONNECTION,
        UNVERIFIED,
        LISTENS,
        LOGS_VALUES,
        SYSTEM_TABLES,
    ],
};

/// The settings that are judged. They hold for this role in this database.
const SETTINGS: [&str; 13] = [
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "data_checksums",
    "password_encryption",
    "ssl",
    "listen_addresses",
    "log_statement",
    "log_min_duration_statement",
    "log_min_duration_sample",
    "log_parameter_max_length",
    "log_parameter_max_length_on_error",
    "allow_system_table_mods",
];

/// The connection as the server sees it.
struct ServerSide {
    is_encrypted: bool,
    /// A socket, or an address of this machine.
    is_local: bool,
}

/// Makes the check, as the application's role. `verifies` says that the URL verifies the server's certificate.
pub async fn check(connection: &mut PgConnection, verifies: bool) -> Check {
    CHECK.asked(settings(connection, verifies).await)
}

async fn settings(connection: &mut PgConnection, verifies: bool) -> Result<(AuditFindings, String), sqlx::Error> {
    let rows = sqlx::query("select name, setting from pg_settings where name = any ($1)")
        .bind(SETTINGS.map(str::to_owned).to_vec())
        .fetch_all(&mut *connection)
        .await?;
    let mut settings = BTreeMap::new();
    for row in rows {
        settings.insert(row.try_get::<String, _>(0)?, row.try_get::<Option<String>, _>(1)?.unwrap_or_default());
    }
    let row = sqlx::query(
        "select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false),
                coalesce(inet_client_addr() <<= '127.0.0.0/8' or inet_client_addr() = '::1'
                         or inet_client_addr() = inet_server_addr(), true),
                current_setting('server_version')",
    )
    .fetch_one(connection)
    .await?;
    let server = ServerSide { is_encrypted: row.try_get(0)?, is_local: row.try_get(1)? };
    let version: String = row.try_get(2)?;
    Ok((judge(&settings, &server, verifies), format!("PostgreSQL {version}")))
}

fn judge(settings: &BTreeMap<String, String>, server: &ServerSide, verifies: bool) -> AuditFindings {
    let mut findings = AuditFindings::default();
    let get = |name: &str| settings.get(name).map_or("", String::as_str);
    let mut expect = |name: &str, is_wrong: bool, rule: &Rule| {
        if is_wrong {
            findings.push(rule, name, format!("{name} is {}", get(name)));
        }
    };
    expect("fsync", get("fsync") == "off", &NOT_DURABLE);
    expect("synchronous_commit", get("synchronous_commit") == "off", &NOT_DURABLE);
    expect("full_page_writes", get("full_page_writes") == "off", &TORN_PAGES);
    expect("data_checksums", get("data_checksums") == "off", &NO_CHECKSUMS);
    expect("password_encryption", get("password_encryption") != "scram-sha-256", &WEAK_VERIFIERS);
    let everywhere = |address: &str| matches!(address.trim(), "*" | "0.0.0.0" | "::");
    expect("listen_addresses", get("listen_addresses").split(',').any(everywhere), &LISTENS);
    expect("allow_system_table_mods", get("allow_system_table_mods") == "on", &SYSTEM_TABLES);
    let logs = |name: &str| !matches!(get(name), "-1" | "");
    let is_logged = matches!(get("log_statement"), "all" | "mod")
        || logs("log_min_duration_statement")
        || logs("log_min_duration_sample");
    let has_values = |name: &str| !matches!(get(name), "0" | "");
    expect("log_parameter_max_length", is_logged && has_values("log_parameter_max_length"), &LOGS_VALUES);
    let on_error = "log_parameter_max_length_on_error";
    expect(on_error, has_values(on_error), &LOGS_VALUES);
    match server {
        ServerSide { is_local: true, .. } => {}
        ServerSide { is_encrypted: false, .. } => {
            findings.push(&PLAIN_CONNECTION, "DATABASE_URL", format!("no TLS; ssl is {} at the server", get("ssl")));
        }
        ServerSide { is_encrypted: true, .. } if verifies => {}
        ServerSide { is_encrypted: true, .. } => {
            findings.push(&UNVERIFIED, "DATABASE_URL", "sslmode is neither verify-ca nor verify-full");
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: [&str; 13] =
        ["on", "on", "on", "on", "scram-sha-256", "on", "10.0.0.1", "ddl", "-1", "-1", "-1", "0", "off"];

    fn found(changed: &[(&str, &str)], server: &ServerSide, verifies: bool) -> Vec<(String, String)> {
        let of = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut settings: BTreeMap<_, _> = SETTINGS.into_iter().zip(SOUND).map(of).collect();
        settings.extend(changed.iter().copied().map(of));
        let check = CHECK.with(judge(&settings, server, verifies), "");
        check.findings().iter().map(|it| (it.rule.to_string(), it.subject.clone())).collect()
    }

    #[test]
    fn each_weak_setting_is_one_finding() {
        let near = ServerSide { is_encrypted: false, is_local: true };
        assert_eq!(found(&[], &near, false), []);
        for (name, value, rule) in [
            ("fsync", "off", NOT_DURABLE),
            ("synchronous_commit", "off", NOT_DURABLE),
            ("full_page_writes", "off", TORN_PAGES),
            ("data_checksums", "off", NO_CHECKSUMS),
            ("password_encryption", "md5", WEAK_VERIFIERS),
            ("listen_addresses", "localhost, *", LISTENS),
            ("log_parameter_max_length_on_error", "-1", LOGS_VALUES),
            ("allow_system_table_mods", "on", SYSTEM_TABLES),
        ] {
            assert_eq!(found(&[(name, value)], &near, false), [(rule.id.to_owned(), name.to_owned())], "{name}");
        }
        let values = (LOGS_VALUES.id.to_owned(), "log_parameter_max_length".to_owned());
        assert_eq!(found(&[("log_statement", "all")], &near, false), std::slice::from_ref(&values));
        assert_eq!(found(&[("log_min_duration_statement", "0")], &near, false), [values]);
        assert_eq!(found(&[("log_statement", "all"), ("log_parameter_max_length", "0")], &near, false), []);
    }

    #[test]
    fn a_connection_over_a_network_is_encrypted_and_its_server_verified() {
        let far = |is_encrypted| ServerSide { is_encrypted, is_local: false };
        let rules = |is_encrypted, verifies| {
            found(&[], &far(is_encrypted), verifies).into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
        };
        assert_eq!(rules(false, true), [PLAIN_CONNECTION.id]);
        assert_eq!(rules(true, false), [UNVERIFIED.id]);
        assert_eq!(rules(true, true), [""; 0]);
    }
}
