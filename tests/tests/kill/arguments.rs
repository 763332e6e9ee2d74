//! Wrong use: each error names what is wrong, with exit code 2.

use std::collections::BTreeMap;

use fulexo_tests::{Database, Program, history};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_argument_is_named_and_ends_with_two() {
    let database = Database::create().await;
    history::fill(&database, 100).await;
    let env = database.env();
    let ended = Program::run(&["rebuild", "--all"], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    for (arguments, told) in [
        (&["register", "--email", "nope", "--role", "admin"][..], &["--email", "must be an e-mail address"][..]),
        (&["register", "--email", "a@example.com", "--role", "No Role"], &["--role", "must start with"]),
        (
            &["register", "--email", "a@example.com", "--role", "admni"],
            &["--role", "`admni`", "did you mean admin?", "auditor"],
        ),
        (
            &["register", "--email", "a@example.com", "--role", "admin", "--display-name", " "],
            &["--display-name", "empty"],
        ),
        (&["register", "--email", "a@example.com"], &["--role"]),
        (&["lockdown", "logins", "--reason", " "], &["--reason"]),
        (&["lockdown", "login", "--reason", "drill"], &["login", "logins"]),
        (&["as-of", "100000", "roles"], &["WHEN", "beyond the end of the log", "100 events"]),
        (&["as-of", "noon", "roles"], &["WHEN", "noon"]),
        (&["replay", "--until", "100000"], &["--until", "beyond the end of the log", "100 events"]),
        (&["rebuild"], &["--all", "accounts, sessions, roles, metrics, audit, incidents"]),
        (&["rebuild", "acounts"], &["READ_MODEL", "acounts", "accounts, sessions, roles, metrics, audit, incidents"]),
        (&["rebuild", "--rollback", "audits"], &["--rollback", "audit"]),
        (&["serve", "--port", "65536"], &["--port", "65536"]),
        (&["serve", "--bind", "localhost"], &["--bind", "localhost"]),
        (&["completions", "tcsh"], &["SHELL", "bash"]),
        (&["reply"], &["reply", "replay"]),
    ] {
        let ended = Program::run(arguments, &env);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.errors);
        assert!(told.iter().all(|text| ended.errors.contains(text)), "{arguments:?}: {told:?} in {}", ended.errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_variable_is_named_with_the_one_that_was_meant() {
    let env = Database::create().await.env();
    for (name, value, told) in [
        ("FULEXO_PROT", "80", &["FULEXO_PROT", "did you mean FULEXO_PORT?"][..]),
        ("FULEXO_BIN", "::1", &["did you mean FULEXO_BIND?"]),
        ("FULEXO_NODE", "a", &["did you mean FULEXO_NODE_NAME?"]),
        ("FULEXO_SOMETHING_ELSE", "a", &["The variables are", "FULEXO_PORT"]),
        ("APP_ENV", "prod", &["APP_ENV", "did you mean production?", "has 1 problem"]),
        ("NATS_CREDS", "/nowhere/nats.creds", &["NATS_CREDS", "/nowhere/nats.creds"]),
        ("JWT_SECRET", "changeme-changeme-changeme-changeme-changeme-changeme-changeme-changeme", &["JWT_SECRET"]),
    ] {
        let env: BTreeMap<String, String> =
            env.clone().into_iter().chain([(name.to_owned(), value.to_owned())]).collect();
        let ended = Program::run(&["serve", "--port", "0"], &env);
        assert_eq!(ended.status.code(), Some(2), "{name}: {}", ended.errors);
        assert!(told.iter().all(|text| ended.errors.contains(text)), "{name}: {told:?} in {}", ended.errors);
    }
}
