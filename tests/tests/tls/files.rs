//! The configuration's problems with certificates that cannot be served, before anything starts.

use chrono::TimeDelta;
use fulexo_node::config::Config;
use fulexo_tests::Database;

use crate::pki::{Authority, CertificateFiles, put};

/// Returns the problems of these variables on top of those of a node.
fn said(database: &Database, more: &[(&str, &str)]) -> Vec<String> {
    let mut env = database.env();
    env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let config = Config::from_vars(env, |path| std::fs::read_to_string(path).map_err(|error| error.to_string()));
    config.err().map_or_else(Vec::new, |errors| errors.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_pair_is_named_with_its_variable() {
    let (authority, database) = (Authority::new(), Database::create().await);
    let sound = authority.issue(&["localhost"]);
    let files = CertificateFiles::new(&sound);
    let of = |files: &CertificateFiles| {
        let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
        said(&database, &[("TLS_CERT", cert), ("TLS_KEY", key)])
    };
    assert_eq!(of(&files), Vec::<String>::new());
    let is = |problems: Vec<String>, variable: &str, words: &str| {
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{variable}: ")) && problems[0].contains(words), "{problems:?}");
        assert!(!problems[0].contains("BEGIN"), "{problems:?}");
    };
    put(&files.key, &authority.issue(&["localhost"]).key);
    is(of(&files), "TLS_KEY", "is not the key of the first certificate");
    put(&files.key, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    is(of(&files), "TLS_KEY", "does not contain a private key");
    std::fs::remove_file(&files.key).unwrap();
    is(of(&files), "TLS_KEY", "cannot read /");
    files.put(&authority.until(&["localhost"], TimeDelta::days(-1)));
    is(of(&files), "TLS_CERT", "expired on");
    put(&files.cert, &sound.key);
    is(of(&files), "TLS_CERT", "does not contain a valid PEM certificate");
    std::fs::remove_file(&files.cert).unwrap();
    is(of(&files), "TLS_CERT", "cannot read /");
}

#[tokio::test(flavor = "multi_thread")]
async fn combinations_without_sense_are_refused() {
    let database = Database::create().await;
    let files = CertificateFiles::new(&Authority::new().issue(&["localhost"]));
    let (cert, key) = (files.cert.to_str().unwrap(), files.key.to_str().unwrap());
    let (cert, key) = (("TLS_CERT", cert), ("TLS_KEY", key));
    let (names, http) = (("ACME_DOMAINS", "a.example"), ("FULEXO_HTTP_PORT", "80"));
    for (variables, words) in [
        (vec![cert], "TLS_CERT is set without TLS_KEY"),
        (vec![key], "TLS_KEY is set without TLS_CERT"),
        (vec![cert, key, names, http], "TLS_CERT and ACME_DOMAINS are both set"),
        (vec![names], "ACME_DOMAINS is set without FULEXO_HTTP_PORT"),
        (vec![http], "FULEXO_HTTP_PORT is set, but there is no HTTPS to redirect to"),
        (vec![cert, key, ("FULEXO_HTTP_PORT", "8080")], "FULEXO_HTTP_PORT and FULEXO_PORT are equal"),
        (vec![("ACME_DIRECTORY", "https://acme.example")], "ACME_DIRECTORY is set without ACME_DOMAINS"),
        (vec![("ACME_CONTACT", "a@example.com")], "ACME_CONTACT is set without ACME_DOMAINS"),
        (vec![cert, key, ("ACME_ROOT", "/r")], "ACME_ROOT is set without ACME_DOMAINS"),
        (vec![names, http, ("ACME_DIRECTORY", "http://acme.example")], "ACME_DIRECTORY must be an https:// URL"),
        (vec![names, http, ("ACME_CONTACT", "mailto:a@example.com")], "ACME_CONTACT must be one e-mail address"),
        (vec![names, http, ("ACME_ROOT", "/nowhere")], "ACME_ROOT: cannot read /nowhere"),
        (vec![http, ("ACME_DOMAINS", "*.example.com")], "ACME_DOMAINS must not contain a wildcard"),
        (vec![http, ("ACME_DOMAINS", "a.example,192.0.2.1")], "ACME_DOMAINS contains"),
        (vec![http, ("ACME_DOMAINS", "https://a.example")], "ACME_DOMAINS contains"),
    ] {
        let problems = said(&database, &variables);
        assert!(problems.iter().any(|problem| problem.starts_with(words)), "{variables:?}: {problems:?}");
    }
    assert_eq!(said(&database, &[http, ("ACME_DOMAINS", "a.example, B.example,a.example")]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn production_is_content_with_a_certificate_or_acme_or_a_proxy() {
    let database = Database::create().await;
    let files = CertificateFiles::new(&Authority::new().issue(&["localhost"]));
    let (cert, key) = (("TLS_CERT", files.cert.to_str().unwrap()), ("TLS_KEY", files.key.to_str().unwrap()));
    let speaks_plainly = |more: &[(&str, &str)]| {
        let problems = said(&database, &[&[("APP_ENV", "production")], more].concat());
        problems.iter().any(|problem| problem.contains("Production needs HTTPS"))
    };
    assert!(speaks_plainly(&[]));
    assert!(!speaks_plainly(&[("TRUSTED_PROXIES", "127.0.0.1/32")]));
    assert!(!speaks_plainly(&[cert, key]));
    assert!(!speaks_plainly(&[("ACME_DOMAINS", "a.example"), ("FULEXO_HTTP_PORT", "80")]));
}
