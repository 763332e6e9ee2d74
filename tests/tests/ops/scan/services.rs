//! Versions of services, asked of real ones and of those that play tricks. Whether the table has aged depends on the day, so that
//! no test here expects a version to be current.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;

use fulexo_tests::{Database, NatsCluster, NatsVersion, superuser};
use serde_json::Value;
use tokio::task::block_in_place;

use super::{Scanned, Written, database, exceptions, folder, run};

/// Scans with this environment, by a database in which nothing matches.
fn scan(env: &[(&str, &str)], more: &[&str]) -> Scanned {
    let found = database(&Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() }).display().to_string();
    let none = exceptions("");
    let mut arguments = vec!["vulnerability-scan", "--json", "--database", &found];
    if !more.contains(&"--exceptions") {
        arguments.extend(["--exceptions", &none]);
    }
    arguments.extend(more);
    // No nginx but the test's own.
    let mut all = BTreeMap::from([("PATH".to_owned(), "/nowhere".to_owned())]);
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    run(&arguments, &all)
}

/// Serves these bytes to one client.
fn server(answer: Vec<u8>, is_http: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        if is_http {
            let mut request = [0; 4096];
            let _ = client.read(&mut request);
        }
        // The program may have left.
        let _ = client.write_all(&answer);
    });
    address
}

/// The first line that a NATS server sends.
fn greeting(url: &str) -> String {
    let address = url.rsplit(['@', '/']).next().unwrap();
    let mut line = String::new();
    BufReader::new(TcpStream::connect(address).unwrap()).read_line(&mut line).unwrap();
    line
}

/// Writes a program `nginx` that does this, and returns its folder.
fn nginx(script: &str) -> PathBuf {
    let folder = folder();
    let file = folder.join("nginx");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn of<'a>(scanned: &'a Scanned, begin: &str) -> &'a Value {
    let checks = scanned.report["checks"].as_array().unwrap_or_else(|| panic!("no report: {}", scanned.errors));
    checks.iter().find(|check| check["id"].as_str().unwrap().starts_with(begin)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_and_nats_say_their_versions() {
    let database = Database::create().await;
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let scanned = block_in_place(|| scan(&[("DATABASE_URL", &database.url()), ("NATS_URL", &nats.url())], &[]));
    assert_eq!(scanned.report["facts"]["services"], serde_json::json!(["postgresql", "nats"]), "{:#}", scanned.report);
    // Passed, outdated, or of an aged table: each names the version that the server itself says.
    let report = scanned.report.to_string();
    let number: String =
        sqlx::query_scalar("show server_version_num").fetch_one(&superuser(&database).await).await.unwrap();
    let number: u32 = number.parse().unwrap();
    let postgresql = format!("{}.{}", number / 10_000, number % 10_000);
    assert!(of(&scanned, "scan.postgresql").to_string().contains(&postgresql), "{postgresql}: {report}");
    let greeting = block_in_place(|| greeting(&nats.url()));
    let version = greeting.split("\"version\":\"").nth(1).unwrap().split(['"', '-']).next().unwrap();
    assert!(of(&scanned, "scan.nats").to_string().contains(version), "{version}: {report}");
    let secrets: Vec<_> = [database.url(), nats.url()]
        .iter()
        .filter_map(|url| Some(url.split_once("://")?.1.split_once('@')?.0.to_owned()))
        .collect();
    assert!(secrets.iter().all(|secret| !report.contains(secret.as_str())), "{report}");
}

#[test]
fn a_service_that_cannot_be_asked_is_not_checked() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgresql://fulexo:hunter2@{closed}/fulexo");
    let scanned = scan(&[("DATABASE_URL", &url)], &[]);
    assert_eq!(scanned.code, 3);
    assert!(!scanned.reason("scan.postgresql").is_empty() && !scanned.report.to_string().contains("hunter2"));

    for (answer, reason) in [
        (b"SSH-2.0-x\r\n".to_vec(), "does not greet"),
        (b"INFO {\"version\":\"".to_vec(), "not JSON"),
        (b"INFO {\"version\":\"\xf0\x9f\x90\x98\"}\r\n".to_vec(), "does not say its version"),
        (vec![b'x'; 1 << 20], "does not greet"),
        ([b"INFO ".to_vec(), vec![b'['; 1 << 20]].concat(), "not JSON"),
    ] {
        let address = server(answer, false);
        let scanned = scan(&[("NATS_URL", &format!("nats://fulexo:hunter2@{address}"))], &[]);
        assert_eq!(scanned.code, 3, "{reason}");
        let said = scanned.reason(&format!("scan.nats {address}"));
        assert!(said.contains(reason) && !scanned.report.to_string().contains("hunter2"), "{said}");
    }
    for url in ["", "http://[", "ws://localhost:1"] {
        let scanned = scan(&[("NATS_URL", url)], &[]);
        assert_eq!(scanned.code, if url.is_empty() { 0 } else { 3 }, "{url}: an empty variable is unset");
    }
}

#[test]
fn an_old_nginx_is_found_by_its_header_and_by_its_program_and_a_hidden_one_is_not_checked() {
    let header =
        |server: &str| format!("HTTP/1.1 404 Not Found\r\nServer: {server}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let asked = |answer: Vec<u8>| {
        let url = format!("http://{}/", server(answer, true));
        scan(&[], &["--url", &url])
    };
    let scanned = asked(header("nginx/1.14.2"));
    assert_eq!(scanned.code, 1);
    assert_eq!(of(&scanned, "scan.nginx")["findings"][0]["subject"], "nginx 1.14.2");
    for (answer, reason) in [
        (header("nginx"), "hides its version"),
        (header("Apache"), "not nginx"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), "no Server header"),
        (b"nonsense\r\n\r\n".to_vec(), ""),
    ] {
        let scanned = asked(answer);
        assert_eq!(scanned.code, 3, "{reason}");
        assert!(scanned.reason("scan.nginx").contains(reason), "{:#}", scanned.report);
    }

    let installed =
        |script: &str, more: &[&str]| scan(&[("PATH", &format!("{}:/bin:/usr/bin", nginx(script).display()))], more);
    let old = "echo 'nginx version: nginx/1.22.1 (Ubuntu)' >&2";
    let scanned = installed(old, &[]);
    assert_eq!((scanned.code, &of(&scanned, "scan.nginx")["findings"][0]["subject"]), (1, &"nginx 1.22.1".into()));
    assert_eq!(installed(old, &["--dependencies-only"]).code, 0);
    assert_eq!(installed("exit 1", &[]).code, 3);
    assert_eq!(installed("yes >&2", &[]).code, 3, "it never ends");

    let accepted = exceptions(r#"{ id = "nginx", reason = "Debian mends it" }"#);
    let scanned = installed(old, &["--exceptions", &accepted]);
    assert_eq!((scanned.code, &of(&scanned, "scan.nginx")["findings"][0]["accepted"]), (0, &"Debian mends it".into()));
    // Where nginx is not asked, nothing is said of its exception.
    assert_eq!(scan(&[], &["--exceptions", &accepted]).code, 0);
}

#[test]
fn a_url_with_a_password_or_of_another_kind_is_refused() {
    for url in ["https://fulexo:hunter2@localhost/", "ftp://localhost/", "localhost"] {
        assert_eq!(scan(&[], &["--url", url]).code, 2, "{url}");
    }
}
