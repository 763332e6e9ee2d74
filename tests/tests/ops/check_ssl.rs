//! `fulexo check-ssl`, against servers with one fault each.

use std::collections::BTreeMap;
use std::time::Duration;

use fulexo_dev_servers::DataDir;
use fulexo_tests::{Program, own_dir};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::tls_servers::{Authority, Listening, Shown, authority, certificate, listen, serve};
use super::{reported, rules};

/// An authority that the verb is told to trust, with one between it and the servers.
struct Pki {
    between: Authority,
    dir: DataDir,
}

impl Pki {
    fn new() -> Self {
        let root = authority("the root", None);
        let between = authority("the one between", Some(&root));
        let dir = own_dir();
        dir.store("ca.pem", &root.pem()).unwrap();
        Self { between, dir }
    }

    fn server(&self, name: &str, days: (i64, i64)) -> Shown {
        certificate(name, days, Some(&self.between))
    }

    /// Returns the chain of a certificate of the authority between.
    fn chain(&self, shown: &Shown) -> Vec<CertificateDer<'static>> {
        vec![shown.der.clone(), self.between.der().clone()]
    }

    /// Runs the verb, which trusts the root.
    fn check(&self, server: &Listening, more: &[&str]) -> (i32, Value) {
        let target = format!("localhost:{}", server.port);
        let file = self.dir.path().join("ca.pem");
        reported(&[&["check-ssl", &target, "--ca", file.to_str().unwrap()][..], more].concat(), &BTreeMap::new())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_server_is_clean() {
    let pki = Pki::new();
    let shown = pki.server("localhost", (-30, 60));
    let server = serve(pki.chain(&shown), &shown.key, "").await;
    let (status, report) = pki.check(&server, &[]);
    assert_eq!((status, &report["verdict"], rules(&report).len()), (0, &"clean".into(), 0), "{report:#}");
    assert_eq!(report["facts"]["post_quantum_key_exchange"], true);
    assert_eq!(report["facts"]["certificates"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_certificate_is_found_by_its_name() {
    let pki = Pki::new();
    let alone = |shown: &Shown| vec![shown.der.clone()];
    let good = pki.server("localhost", (-30, 60));
    let named = pki.server("example.org", (-30, 60));
    let ended = pki.server("localhost", (-90, -1));
    let soon = pki.server("localhost", (-80, 10));
    let early = pki.server("localhost", (2, 60));
    let own = certificate("localhost", (-30, 60), None);
    let stranger = authority("a stranger", None);
    let strange = certificate("localhost", (-30, 60), Some(&stranger));
    let unordered = vec![good.der.clone(), stranger.der().clone(), pki.between.der().clone()];
    for (fault, shown, chain) in [
        ("tls.wrong_name", &named, pki.chain(&named)),
        ("tls.expired", &ended, pki.chain(&ended)),
        ("tls.ends_soon", &soon, pki.chain(&soon)),
        ("tls.not_yet_valid", &early, pki.chain(&early)),
        ("tls.self_signed", &own, alone(&own)),
        ("tls.incomplete_chain", &good, alone(&good)),
        ("tls.untrusted", &strange, vec![strange.der.clone(), stranger.der().clone()]),
    ] {
        let server = serve(chain, &shown.key, "").await;
        let (status, report) = pki.check(&server, &[]);
        assert_eq!((status, rules(&report)), (1, vec![fault]), "{report:#}");
    }
    let server = serve(unordered, &good.key, "").await;
    let (status, report) = pki.check(&server, &[]);
    assert_eq!((status, rules(&report)), (1, vec!["tls.chain_order"; 2]), "{report:#}");
    let server = serve(pki.chain(&soon), &soon.key, "").await;
    assert_eq!(pki.check(&server, &["--days", "5"]).0, 0, "the horizon is the operator's");
    let expired = serve(pki.chain(&ended), &ended.key, "").await;
    let sarif = Program::run(&["check-ssl", &format!("localhost:{}", expired.port), "--sarif"], &BTreeMap::new());
    let sarif: Value = serde_json::from_str(&sarif.said).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert!(results.iter().any(|result| result["ruleId"] == "tls.expired"), "{sarif:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_old_versions_and_weak_suites_is_found() {
    let pki = Pki::new();
    // Takes whatever is offered first, in every version but SSL 3.0.
    let server = listen(async |mut stream: tokio::net::TcpStream| {
        let mut hello = [0; 512];
        let length = stream.read(&mut hello).await.unwrap_or_default();
        if length < 60 || hello[9..11] == [3, 0] {
            return;
        }
        let suite = &hello[46..48];
        let body = [&hello[9..11], &[7; 32], &[0], suite, &[0]].concat();
        let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat();
        let record = [&[22, hello[9], hello[10], 0, u8::try_from(message.len()).unwrap()], &message[..]].concat();
        let _ = stream.write_all(&record).await;
    })
    .await;
    let (status, report) = pki.check(&server, &[]);
    let found = rules(&report);
    assert_eq!(status, 1);
    assert_eq!(found.iter().filter(|it| **it == "tls.old_version").count(), 2, "{found:?}");
    let of = |rule: &str| found.iter().filter(|it| **it == rule).count();
    assert_eq!((of("tls.broken_suite"), of("tls.small_blocks"), of("tls.no_forward_secrecy")), (19, 4, 6), "{found:?}");
    assert_eq!(of("tls.no_current_version"), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_server_is_not_checked_and_not_clean() {
    let pki = Pki::new();
    let silent = listen(async |stream: tokio::net::TcpStream| {
        sleep(Duration::from_secs(120)).await;
        drop(stream);
    })
    .await;
    let closing = listen(async |stream: tokio::net::TcpStream| drop(stream)).await;
    let garbage = listen(async |mut stream: tokio::net::TcpStream| {
        let _ = stream.write_all(&[0x42; 64 * 1024]).await;
    })
    .await;
    // The longest record that may be announced, and nothing more.
    let endless = listen(async |mut stream: tokio::net::TcpStream| {
        let _ = stream.write_all(&[22, 3, 3, 0x40, 0]).await;
        sleep(Duration::from_secs(120)).await;
    })
    .await;
    for server in [&silent, &closing, &garbage, &endless] {
        let (status, report) = pki.check(server, &["--timeout", "2"]);
        assert_eq!((status, &report["verdict"]), (3, &"incomplete".into()), "{report:#}");
    }
    let port = silent.port;
    drop(silent);
    let gone = Program::run(&["check-ssl", &format!("127.0.0.1:{port}")], &BTreeMap::new());
    assert_eq!(gone.status.code(), Some(3), "{}", gone.said);
    let misused = Program::run(&["check-ssl", "https://localhost/"], &BTreeMap::new());
    assert_eq!(misused.status.code(), Some(2), "{}", misused.errors);
    let misused = Program::run(&["check-ssl", "localhost", "--ca", "/nowhere"], &BTreeMap::new());
    assert_eq!(misused.status.code(), Some(2), "{}", misused.errors);
}
