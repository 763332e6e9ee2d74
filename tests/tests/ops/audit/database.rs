//! Weaknesses of the database: roles, privileges, definitions, settings, access.

use std::fs::OpenOptions;
use std::io::Write;

use fulexo_dev_servers::Options;
use fulexo_tests::{Database, superuser};

use super::{Instance, set};

/// The file with the privileges of a database that was just migrated.
const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/ops/src/audit/expected_privileges.txt");

async fn expected() -> String {
    let pool = superuser(&Database::create().await).await;
    fulexo_ops::audit::database_grants::expected_lines(&mut pool.acquire().await.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expected_privileges_are_those_of_the_migrations() {
    let (expected, kept) = (expected().await, std::fs::read_to_string(EXPECTED).unwrap());
    let missing: Vec<_> = expected.lines().filter(|line| !kept.lines().any(|it| it == *line)).collect();
    let extra: Vec<_> = kept.lines().filter(|line| !expected.lines().any(|it| it == *line)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "write them with --ignored: {missing:#?} {extra:#?}");
    assert_eq!(expected, kept);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the expected privileges"]
async fn write_the_expected_privileges() {
    std::fs::write(EXPECTED, expected().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privilege_more_or_less_is_found_as_itself() {
    let instance = Instance::start().await;
    for (weakness, mended, findings) in [
        (
            "grant update on log.event to fulexo_app",
            "revoke update on log.event from fulexo_app",
            set([
                "append_only.granted UPDATE on log.event",
                "database_grants.extra UPDATE on table log.event to fulexo_app",
            ]),
        ),
        (
            "grant truncate on log.event_1 to fulexo_app",
            "revoke truncate on log.event_1 from fulexo_app",
            set([
                "append_only.granted TRUNCATE on log.event_1",
                "database_grants.extra TRUNCATE on table log.event_1 to fulexo_app",
            ]),
        ),
        (
            "grant update (version) on log.stream to fulexo_app",
            "revoke update (version) on log.stream from fulexo_app",
            set([
                "append_only.permitted UPDATE on log.stream",
                "database_grants.extra UPDATE on column log.stream.version to fulexo_app",
            ]),
        ),
        (
            "grant select on read.account to public",
            "revoke select on read.account from public",
            set(["database_grants.extra SELECT on table read.account to PUBLIC"]),
        ),
        (
            "revoke delete on log.command from fulexo_app",
            "grant delete on log.command to fulexo_app",
            set(["database_grants.missing DELETE on table log.command to fulexo_app"]),
        ),
        (
            "grant create on schema public to public",
            "revoke create on schema public from public",
            set(["database_grants.extra CREATE on schema public to PUBLIC"]),
        ),
        (
            "create role reporting login; grant usage on schema read to reporting",
            "revoke usage on schema read from reporting; drop role reporting",
            set(["database_grants.extra USAGE on schema read to reporting"]),
        ),
    ] {
        assert_eq!(instance.found(weakness, mended).await, findings, "{weakness}");
    }
    // What an index of the log is for readers is nothing to find, nor is a read model under construction.
    instance.plant("select projection.begin_build('accounts', 'tests')").await;
    assert_eq!(instance.audit(&[]).beyond_sound(), set([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_gone_and_a_function_that_was_changed_are_found_as_themselves() {
    let instance = Instance::start().await;
    let trigger = |state: &str| {
        format!(
            "database_grants.definition trigger append_only on log.event_0: enabled {state}, type 62, calls log.refuse_change"
        )
    };
    let found = instance
        .found(
            "alter table log.event_0 disable trigger append_only",
            "alter table log.event_0 enable always trigger append_only",
        )
        .await;
    assert_eq!(found, set([&trigger("A"), &trigger("D")]));
    let found = instance
        .found(
            "alter table log.event_0 enable trigger append_only",
            "alter table log.event_0 enable always trigger append_only",
        )
        .await;
    assert_eq!(found, set([&trigger("A"), &trigger("O")]), "session_replication_role would disable it");
    let found = instance.found("alter function log.lock owner to fulexo_owner", "select 1").await;
    assert!(found.contains("database_grants.definition owner of function log.lock: fulexo_sequencer"), "{found:?}");
    instance.plant("alter function log.lock owner to fulexo_sequencer").await;
    let empty = "create or replace function log.refuse_change() returns trigger language plpgsql as $$
                 begin return null; end $$";
    let found = instance.found(empty, "select 1").await;
    let of_function = |name: &String| name.starts_with("database_grants.definition function log.refuse_change: body ");
    assert!(found.len() == 2 && found.iter().all(of_function), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_can_do_more_is_found_as_itself() {
    let instance = Instance::start().await;
    for (weakness, mended, findings) in [
        (
            "alter role fulexo createdb replication",
            "alter role fulexo nocreatedb noreplication",
            set(["database_roles.attribute fulexo CREATEDB", "database_roles.attribute fulexo REPLICATION"]),
        ),
        ("alter role fulexo_app login", "alter role fulexo_app nologin", set(["database_roles.login fulexo_app"])),
        (
            "grant pg_read_all_data to fulexo",
            "revoke pg_read_all_data from fulexo",
            set(["database_roles.membership pg_read_all_data"]),
        ),
        (
            "grant create on database fulexo to fulexo",
            "revoke create on database fulexo from fulexo",
            set(["database_roles.create fulexo"]),
        ),
        (
            "alter role fulexo_owner superuser",
            "alter role fulexo_owner nosuperuser",
            set(["database_roles.owner_superuser fulexo_owner"]),
        ),
        (
            "alter role fulexo set synchronous_commit = off",
            "alter role fulexo reset synchronous_commit",
            set(["database_settings.not_durable synchronous_commit"]),
        ),
        (
            "alter role fulexo set log_min_duration_statement = 0",
            "alter role fulexo reset log_min_duration_statement",
            set(["database_settings.logs_values log_parameter_max_length"]),
        ),
    ] {
        assert_eq!(instance.found(weakness, mended).await, findings, "{weakness}");
    }
    for (setting, mended, finding) in [
        (
            "alter role fulexo set password_encryption = 'md5'",
            "alter role fulexo reset password_encryption",
            "database_settings.weak_verifiers password_encryption",
        ),
        (
            "alter role fulexo set allow_system_table_mods = on",
            "alter role fulexo reset allow_system_table_mods",
            "database_settings.system_tables allow_system_table_mods",
        ),
    ] {
        assert_eq!(instance.found(setting, mended).await, set([finding]));
    }
    // Who can become another role can do what that one can: the log is open, too, and the audit says so.
    for (weakness, mended, rules) in [
        (
            "alter role fulexo superuser",
            "alter role fulexo nosuperuser",
            set(["append_only.permitted", "database_roles.superuser"]),
        ),
        (
            "grant fulexo_sequencer to fulexo",
            "revoke fulexo_sequencer from fulexo",
            set(["append_only.granted", "append_only.permitted", "database_roles.sequencer"]),
        ),
        (
            "grant fulexo_owner to fulexo",
            "revoke fulexo_owner from fulexo",
            set(["append_only.permitted", "database_roles.create", "database_roles.owner"]),
        ),
    ] {
        let found = instance.found(weakness, mended).await;
        let found: std::collections::BTreeSet<String> =
            found.iter().map(|name| name.split_once(' ').unwrap().0.to_owned()).collect();
        assert_eq!(found, rules, "{weakness}");
    }
    let accept = instance.accept();
    assert_eq!(instance.audit(&["--accept", &accept]).status, Some(0), "everything was mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_listens_everywhere_and_writes_torn_pages_is_found_as_itself() {
    let settings = [("listen_addresses", "*"), ("full_page_writes", "off")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let instance = Instance::with(&Options { settings }).await;
    let expected = set(["database_settings.listens listen_addresses", "database_settings.torn_pages full_page_writes"]);
    assert_eq!(instance.audit(&[]).beyond_sound(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_lets_in_without_a_password_or_in_clear_is_found_as_itself() {
    let instance = Instance::start().await;
    let path = instance.path("postgres/data/pg_hba.conf");
    let before = std::fs::read_to_string(&path).unwrap();
    let line = before.lines().count() + 1;
    for (added, finding) in [
        ("host all all 10.0.0.0/8 trust", "database_access.trust line"),
        ("host all all 127.0.0.1/32 md5", "database_access.weak line"),
        ("host all all 10.0.0.0/8 scram-sha-256", "database_access.plain line"),
    ] {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        writeln!(file, "{added}").unwrap();
        assert_eq!(instance.audit(&[]).beyond_sound(), set([&format!("{finding} {line}")]), "{added}");
        std::fs::write(&path, &before).unwrap();
    }
    assert_eq!(instance.audit(&[]).beyond_sound(), set([]));
}
