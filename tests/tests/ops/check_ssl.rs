//! `fulexo check-ssl`, against servers with one fault each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fulexo_dev_servers::DataDir;
use fulexo_tests::{Program, eventually, own_dir};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::tls_servers::{Authority, Listening, OpenSsl, Shown, authority, certificate, listen, serve, serve_versions};
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
        ("tls.unreadable", &good, [pki.chain(&good), vec![CertificateDer::from(vec![0x30, 0x7f])]].concat()),
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
    let server = listen(|stream| take_anything(stream, [3, 3])).await;
    let (status, report) = pki.check(&server, &["--timeout", "60"]);
    let suites = ["tls.broken_suite", "tls.small_blocks", "tls.no_forward_secrecy", "tls.weak_integrity"];
    let versions = ["tls.old_version", "tls.old_version", "tls.no_tls_1_3"];
    assert_eq!((status, rules(&report)), (1, [&versions[..], &suites].concat()), "{report:#}");
    assert!(report["facts"]["older_cipher_suites"].as_array().unwrap().len() > 250, "all are taken");
    assert_eq!(report["facts"]["older_cipher_suites_unfinished"], Value::Null, "{report:#}");

    let outdated = listen(|stream| take_anything(stream, [3, 2])).await;
    let (status, report) = pki.check(&outdated, &["--timeout", "60"]);
    let versions = ["tls.old_version", "tls.old_version", "tls.no_current_version"];
    assert_eq!((status, rules(&report)), (1, [&versions[..], &suites].concat()), "the suites of TLS 1.1: {report:#}");
}

/// Takes whatever is offered first, in every version from TLS 1.0 up to this one.
async fn take_anything(mut stream: TcpStream, newest: [u8; 2]) {
    let mut hello = [0; 4096];
    let length = stream.read(&mut hello).await.unwrap_or_default();
    if length < 60 || hello[9..11] == [3, 0] || hello[9..11] > newest[..] {
        return;
    }
    let suite = &hello[46..48];
    let body = [&hello[9..11], &[7; 32], &[0], suite, &[0]].concat();
    let message = [&[2, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat();
    let record = [&[22, hello[9], hello[10], 0, u8::try_from(message.len()).unwrap()], &message[..]].concat();
    let _ = stream.write_all(&record).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_key_of_its_certificate_is_found() {
    let pki = Pki::new();
    let (shown, other) = (pki.server("localhost", (-30, 60)), pki.server("localhost", (-30, 60)));
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let server = serve_versions(pki.chain(&shown), &other.key, versions).await;
        let (status, report) = pki.check(&server, &[]);
        let found: Vec<_> = rules(&report).into_iter().filter(|rule| *rule != "tls.no_tls_1_3").collect();
        assert_eq!((status, found), (1, vec!["tls.bad_proof"]), "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_openssl_that_allows_everything_is_found_by_the_names_that_openssl_gives() {
    let pki = Pki::new();
    let Some(server) = OpenSsl::serve(&pki.dir) else { return };
    eventually("it listens", async || TcpStream::connect(("127.0.0.1", server.port)).await.is_ok()).await;
    let target = format!("localhost:{}", server.port);
    let (status, report) = reported(&["check-ssl", &target, "--timeout", "60"], &BTreeMap::new());
    let found: BTreeSet<_> = rules(&report).into_iter().collect();
    assert_eq!((status, found), (1, BTreeSet::from(OpenSsl::FAULTS)), "{report:#}");
    let taken = report["facts"]["older_cipher_suites"].to_string();
    for suite in [
        "TLS_DH_anon_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_NULL_SHA",
        "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA",
        "TLS_DHE_RSA_WITH_AES_128_CCM_8",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ] {
        assert!(taken.contains(suite), "{suite}: {taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_server_is_not_checked_and_not_clean() {
    let pki = Pki::new();
    let silent = listen(async |stream: TcpStream| {
        sleep(Duration::from_secs(120)).await;
        drop(stream);
    })
    .await;
    let closing = listen(async |stream: TcpStream| drop(stream)).await;
    let garbage = listen(async |mut stream: TcpStream| {
        let _ = stream.write_all(&[0x42; 64 * 1024]).await;
    })
    .await;
    // The longest record that may be announced, and nothing more.
    let endless = listen(async |mut stream: TcpStream| {
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
