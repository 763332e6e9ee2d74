//! Certificates: served, in the node's file, ending, ended, or others than they should be.

use std::collections::BTreeMap;

use fulexo_tests::own_dir;

use super::super::tls_servers::{authority, certificate, serve};
use super::fake::{READY, answer};
use super::{Ground, set, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_has_ended_or_has_another_name_is_found() {
    let ground = Ground::start().await;
    let stranger = authority("a stranger", None);
    for (fault, name, days, issuer) in [
        ("tls.ends_soon", "localhost", (-80, 10), &ground.root),
        ("tls.expired", "localhost", (-90, -1), &ground.root),
        ("tls.wrong_name", "example.org", (-30, 60), &ground.root),
        ("tls.incomplete_chain", "localhost", (-30, 60), &stranger),
    ] {
        let shown = certificate(name, days, Some(issuer));
        let ready = Box::leak(answer("200 OK", READY).into_boxed_str());
        let server = serve(vec![shown.der.clone()], &shown.key, ready).await;
        let url = format!("https://localhost:{}", server.port);
        let checked = ground.check_with(&BTreeMap::new(), &["--url", &url, "--without", "checkpoint"]);
        let found = checked.findings();
        let rules: Vec<&str> = found.iter().map(|it| it.split(' ').next().unwrap()).collect();
        assert_eq!((checked.status, rules), (1, vec![fault]), "{:#}", checked.report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_judged_where_nothing_serves_it_and_compared_where_something_does() {
    let mut ground = Ground::start().await;
    let other = own_dir();
    store(&other, &certificate("localhost", (-80, 10), Some(&ground.root)));
    let path = other.path().join("cert.pem").display().to_string();
    let port = ground.node().port();
    let checked = ground.check_with(&ground.with("TLS_CERT", &path), &[]);
    let rules: Vec<String> = checked.findings().iter().map(|it| it.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(rules, ["certificate.not_served", "tls.ends_soon"], "{:#}", checked.report);

    let unread = ground.check_with(&ground.with("TLS_CERT", "/nowhere/cert.pem"), &[]);
    assert_eq!(unread.findings(), set([]), "{:#}", unread.report);

    ground.stop().await;
    let down = format!("service.down https://127.0.0.1:{port}");
    let checked = ground.check_with(&ground.with("TLS_CERT", &path), &[]);
    let wanted = set([&down, "nodes.none service", "tls.ends_soon localhost:443, \"CN=the server localhost\""]);
    assert_eq!(checked.findings(), wanted, "{:#}", checked.report);
    let unread = ground.check_with(&ground.with("TLS_CERT", "/nowhere/cert.pem"), &[]);
    assert!(unread.reason("certificate").starts_with("TLS_CERT: "), "{:#}", unread.report);
}
