//! The walk of the README: from registration to the audit trail. By its commands as they are written there, and step by
//! step.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fulexo_tests::{Node, PASSWORD, Program};
use serde_json::{Value, json};
use tokio::task::block_in_place;

/// Returns the commands of the section, as a reader would paste them.
fn commands() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = readme.split_once("## Walk from registration to the audit trail").unwrap();
    let (_, commands) = section.split_once("```sh\n").unwrap();
    commands.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_run_twice_and_leave_nothing_behind() {
    let here = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("walk-{}", std::process::id()));
    std::fs::create_dir_all(&here).unwrap();
    // Its servers do not run as root, and the directory is not theirs.
    let dir = here.join(".fulexo");
    let arguments = ["dev", "--port", "0", "--data-dir", dir.to_str().unwrap()];
    let mut dev = block_in_place(|| {
        let mut program = Program::start(&arguments, &BTreeMap::new());
        program.says("Press Ctrl-C to stop");
        program
    });
    let file: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("dev.json")).unwrap()).unwrap();
    let commands = commands().replace("http://127.0.0.1:8080", file["url"].as_str().unwrap());
    for time in ["first", "second"] {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(&here);
        let output = block_in_place(|| bash.output()).unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && errors.is_empty(), "the {time} time: {said}{errors}");
        for event in ["account.registered", "authentication.failed", "session.refreshed", "session.revoked"] {
            assert!(said.contains(event), "the {time} time: {said}");
        }
        let hashes: Vec<&str> = said.lines().rev().take(2).collect();
        assert!(hashes[0] == hashes[1] && hashes[0].len() == 43, "the {time} time: {said}");
    }
    let left: Vec<_> = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".fulexo"]);
    assert!(block_in_place(|| dev.stop("INT")).status.success());
    std::fs::remove_dir_all(here).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_from_registration_to_logout_is_an_event_that_an_auditor_sees() {
    let node = Node::start().await;
    let mut ann = node.anonymous();
    let registered = ann.post("/v1/auth/register", json!({"email": "ann@example.com", "password": PASSWORD})).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    let login = ann.post("/v1/auth/login", json!({"email": "Ann@Example.com", "password": PASSWORD})).await;
    assert_eq!(login.status, 200, "{login:?}");
    ann.log_in_with(&login);
    let me = ann.seeing(login.position()).get("/v1/me").await;
    assert_eq!((me.status, &me.json["email"]), (200, &json!("ann@example.com")), "{me:?}");
    let refreshed = ann.post("/v1/auth/refresh", json!({"refresh_token": ann.refresh_token})).await;
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    ann.log_in_with(&refreshed);
    let logout = ann.post_nothing("/v1/auth/logout").await;
    assert_eq!(logout.status, 204, "{logout:?}");
    assert_eq!(ann.get("/v1/auth/session").await.status, 401, "the token ends with its session");

    let auditor = node.auditor().await;
    let path = format!("/v1/audit/events?subject={}", registered.json["account_id"].as_str().unwrap());
    let trail = auditor.seeing(logout.position()).get(&path).await;
    let types: Vec<_> =
        trail.json["items"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "account.registered",
            "account.role_granted",
            "authentication.succeeded",
            "session.started",
            "session.refreshed",
            "session.revoked",
        ]
    );
    node.stop().await;
}
