//! Weaknesses at the public URL and among the backups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;

use chrono::TimeDelta;
use fulexo_ops::age::Identity;
use fulexo_tests::{Database, Program, eventually};
use rustls::pki_types::CertificateDer;
use rustls::version::TLS12;
use tokio::net::TcpStream;

use super::environment::found;
use super::{Audited, Instance, SOUND, SOUND_ANSWER, set};
use crate::tls_servers::{Listening, OpenSsl, authority, certificate, serve, serve_versions};

/// The rules that an audit finds at the public URL.
fn at(instance: &Instance, server: &Listening) -> BTreeSet<String> {
    at_port(instance, server.port)
}

fn at_port(instance: &Instance, port: u16) -> BTreeSet<String> {
    let mut env = instance.env.clone();
    env.insert("FULEXO_PUBLIC_URL".to_owned(), format!("https://localhost:{port}/"));
    let names = found(instance, &env);
    names.iter().map(|name| name.split_once(' ').unwrap().0.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_served_certificate_is_found_as_itself() {
    let instance = Instance::start().await;
    let good = certificate("localhost", (-30, 60), Some(&instance.authority));
    let between = authority("the one between", Some(&instance.authority));
    let (stranger, own) = (authority("a stranger", None), certificate("localhost", (-30, 60), None));
    let below = certificate("localhost", (-30, 60), Some(&between));
    let strange = certificate("localhost", (-30, 60), Some(&stranger));
    for (name, days, rule) in [
        ("example.org", (-30, 60), "tls.wrong_name"),
        ("localhost", (-90, -1), "tls.expired"),
        ("localhost", (-80, 10), "tls.ends_soon"),
        ("localhost", (2, 60), "tls.not_yet_valid"),
    ] {
        let shown = certificate(name, days, Some(&instance.authority));
        let server = serve(vec![shown.der], &shown.key, SOUND_ANSWER).await;
        assert_eq!(at(&instance, &server), set([rule]));
    }
    for (chain, key, rule) in [
        (vec![own.der.clone()], &own.key, "tls.self_signed"),
        (vec![below.der.clone()], &below.key, "tls.incomplete_chain"),
        (vec![strange.der.clone(), stranger.der().clone()], &strange.key, "tls.untrusted"),
        (vec![good.der.clone(), stranger.der().clone()], &good.key, "tls.chain_order"),
        (vec![good.der.clone(), CertificateDer::from(vec![0x30, 0x7f])], &good.key, "tls.unreadable"),
    ] {
        let server = serve(chain, key, SOUND_ANSWER).await;
        assert_eq!(at(&instance, &server), set([rule]));
    }
    let unproven = serve_versions(vec![good.der.clone()], &own.key, rustls::ALL_VERSIONS).await;
    assert_eq!(at(&instance, &unproven), set(["tls.bad_proof"]), "its headers are those of nobody");
    let older = serve_versions(vec![good.der.clone()], &good.key, &[&TLS12]).await;
    assert!(at(&instance, &older).contains("tls.no_tls_1_3"));

    let Some(server) = OpenSsl::serve(&instance.dir) else { return };
    eventually("it listens", async || TcpStream::connect(("127.0.0.1", server.port)).await.is_ok()).await;
    let all = at_port(&instance, server.port);
    let expected = set(OpenSsl::FAULTS);
    assert!(all.is_superset(&expected), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_lack_or_say_too_much_are_found_as_themselves() {
    let instance = Instance::start().await;
    let shown = certificate("localhost", (-30, 60), Some(&instance.authority));
    let answered = async |answer: String| {
        let server = serve(vec![shown.der.clone()], &shown.key, answer.leak()).await;
        at(&instance, &server)
    };
    assert_eq!(answered(SOUND_ANSWER.to_owned()).await, set([]));
    for (without, rule) in [
        ("strict-transport-security", "headers.hsts"),
        ("x-content-type-options", "headers.sniffing"),
        ("content-security-policy", "headers.no_csp"),
        ("referrer-policy", "headers.referrer"),
        ("permissions-policy", "headers.permissions"),
        ("cross-origin-opener-policy", "headers.isolation"),
    ] {
        assert_eq!(answered(SOUND_ANSWER.replace(without, "x-other")).await, set([rule]));
    }
    for (header, rule) in [
        ("x-xss-protection: 1", "headers.xss_filter"),
        ("content-type: application/json", "headers.cached"),
        ("server: nginx/1.22.1", "headers.disclosure"),
        ("set-cookie: session=1", "headers.cookie"),
        ("x-frame-options: DENY", "headers.duplicate"),
    ] {
        let more = format!("{header}\r\ncontent-length");
        assert_eq!(answered(SOUND_ANSWER.replace("content-length", &more)).await, set([rule]), "{header}");
    }
    let wide = SOUND_ANSWER.replace("default-src 'none'", "default-src *");
    assert_eq!(answered(wide).await, set(["headers.weak_csp"]));
    let framed = SOUND_ANSWER.replace("; frame-ancestors 'none'", "").replace("DENY", "ALLOWALL");
    assert_eq!(answered(framed).await, set(["headers.frames"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_the_file_of_the_certificate_is_judged_and_the_headers_are_not_checked() {
    let instance = Instance::start().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut env = instance.env.clone();
    env.insert("FULEXO_ISSUER".to_owned(), format!("https://localhost:{port}"));
    let audit =
        |env: &BTreeMap<String, String>| Audited::of(&Instance::run_with(env, &["--json", "--key", &instance.vkey]));
    let unchecked = |audited: &Audited| audited.unchecked().into_keys().collect::<Vec<_>>();
    let away = audit(&env);
    assert_eq!((unchecked(&away), away.beyond_sound()), (vec!["headers".to_owned(), "tls".to_owned()], set([])));

    // A node starts with it.
    let shown = certificate("localhost", (-80, 10), Some(&instance.authority));
    instance.dir.store("server.pem", &shown.pem).unwrap();
    instance.dir.store("server.key", &shown.key.serialize_pem()).unwrap();
    for (name, file) in [("TLS_CERT", "server.pem"), ("TLS_KEY", "server.key")] {
        env.insert(name.to_owned(), instance.path(file).display().to_string());
    }
    let judged = audit(&env);
    assert_eq!(unchecked(&judged), ["headers"]);
    let subject = format!("tls.ends_soon localhost:{port}, \"CN=the server localhost\"");
    assert_eq!(judged.beyond_sound(), set([&subject]));
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_that_are_old_unverified_failed_or_keep_keys_are_found_as_themselves() {
    let instance = Instance::start().await;
    let (backups, day) = (instance.path("backups"), TimeDelta::days(1));
    let again = || {
        fs::remove_dir_all(&backups).unwrap();
        fs::create_dir(&backups).unwrap();
    };
    let audited = || instance.audit(&[]).beyond_sound();
    again();
    assert_eq!(audited(), set(["backups.none backups"]));
    instance.back_up(day * 3, Some(false), true);
    assert_eq!(audited(), set(["backups.old backups"]));
    again();
    instance.back_up(day, None, true);
    assert_eq!(audited(), set(["backups.unverified backups"]));
    let failed = instance.back_up(day / 2, Some(true), true);
    let failed = format!("backups.failed {failed}");
    assert_eq!(audited(), set([&failed, "backups.unverified backups"]));
    again();
    let future = instance.back_up(-day, Some(false), true);
    // Its verification is of the future, too.
    assert_eq!(audited(), set([&format!("backups.future {future}"), "backups.unverified backups"]));
    again();
    instance.back_up(day * 32, None, true);
    instance.back_up(day * 33, None, false);
    instance.back_up(day, Some(false), true);
    assert_eq!(audited(), set(["backups.old_keys keys.age"]));
    assert!(instance.audit(&["--without", "backups"]).beyond_sound().is_empty());

    // What cannot be read is not clean.
    fs::remove_dir_all(&backups).unwrap();
    let gone = instance.audit(&[]).unchecked();
    assert!(gone["backups"].contains("backups"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_another_key_signed_and_a_weak_recipient_are_found_as_themselves() {
    let instance = Instance::start().await;
    let path = |name: &str| instance.path(name).display().to_string();
    let weak = Identity::generate().unwrap().recipient().to_string();
    instance.dir.store("weak", &weak).unwrap();
    for name in ["signing.key", "other.key"] {
        let made = Program::run(
            &["backup", "keygen", "--signing", "tests.example/backups", "--out", &path(name)],
            &BTreeMap::new(),
        );
        assert!(made.status.success(), "{}", made.errors);
    }
    fs::remove_dir_all(instance.path("backups")).unwrap();
    fs::create_dir(instance.path("backups")).unwrap();
    let mut env = instance.env.clone();
    env.insert("FULEXO_BACKUP_SIGNING_KEY_FILE".to_owned(), path("signing.key"));
    // A backup of another database, which the service's own log does not record: what is in it does not matter here.
    let mut backing_up = env.clone();
    backing_up.remove("DATABASE_URL");
    backing_up.insert("DATABASE_OWNER_URL".to_owned(), Database::create().await.owner_url());
    backing_up.insert("FULEXO_BACKUP_RECIPIENTS_FILE".to_owned(), path("weak"));
    backing_up.insert("PATH".to_owned(), std::env::var("PATH").unwrap());
    let made = Program::run(&["backup", "create"], &backing_up);
    assert!(made.status.success(), "{}", made.errors);
    let of_weak = format!("backups.weak_recipient {weak}");
    assert_eq!(found(&instance, &env), set([&of_weak, "backups.unverified backups"]), "by the manifest");
    env.insert("FULEXO_BACKUP_SIGNING_KEY_FILE".to_owned(), path("other.key"));
    let name = fs::read_dir(instance.path("backups")).unwrap().map(|entry| entry.unwrap().file_name());
    let name = name.map(|name| name.into_string().unwrap()).find(|name| name != "lock").unwrap();
    let unsigned = format!("backups.unsigned {name}");
    assert_eq!(found(&instance, &env), set([&unsigned, "backups.unverified backups"]));
    env.insert("FULEXO_BACKUP_RECIPIENTS_FILE".to_owned(), path("weak"));
    assert_eq!(found(&instance, &env), set([&of_weak, &unsigned, "backups.unverified backups"]), "by the file");
    env.insert("FULEXO_BACKUP_RECIPIENTS_FILE".to_owned(), path("nothing"));
    fs::remove_dir_all(instance.path("backups").join(&name)).unwrap();
    instance.back_up(TimeDelta::hours(1), Some(false), true);
    env.remove("FULEXO_BACKUP_SIGNING_KEY_FILE");
    let audited = Audited::of(&Instance::run_with(&env, &["--json", "--key", &instance.vkey]));
    assert_eq!(audited.findings(), set(SOUND));
    assert!(audited.unchecked()["backups"].contains("nothing"), "{:#}", audited.report);
}
