//! Weaknesses of the environment: configuration, secrets, files, NATS.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};

use fulexo_tests::{eventually, free_port};
use tokio::net::TcpStream;

use super::{Audited, Instance, SOUND, set};

pub fn found(instance: &Instance, env: &BTreeMap<String, String>) -> BTreeSet<String> {
    let audited = Audited::of(&Instance::run_with(env, &["--json", "--key", &instance.vkey]));
    assert_eq!(audited.status, Some(1), "{:#}", audited.report);
    audited.findings().difference(&set(SOUND)).cloned().collect()
}

/// A nats-server without TLS, which asks nobody for anything unless it is told to.
struct OpenNats(Child);

impl OpenNats {
    async fn start(address: &str, port: u16, more: &[&str]) -> Self {
        let mut command = Command::new("nats-server");
        command.args(["-a", address, "-p", &port.to_string()]).args(more).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Self(command.spawn().unwrap());
        eventually("it listens", async || TcpStream::connect((address, port)).await.is_ok()).await;
        started
    }
}

impl Drop for OpenNats {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_turns_off_shows_or_lacks_is_found_as_itself() {
    let instance = Instance::start().await;
    let with = |changes: &[(&str, &str)]| {
        let mut env = instance.env.clone();
        for (name, value) in changes {
            env.insert((*name).to_owned(), (*value).to_owned());
        }
        found(&instance, &env)
    };
    for (name, value, finding) in [
        ("FULEXO_NATS_REPLICAS", "0", "configuration.no_copy FULEXO_NATS_REPLICAS"),
        ("FULEXO_LOG", "info,fulexo_node=debug", "configuration.verbose_log FULEXO_LOG"),
        ("JWT_EXPIRES_IN", "2h", "configuration.long_tokens JWT_EXPIRES_IN"),
        ("FULEXO_BIND", "0.0.0.0", "configuration.plain FULEXO_BIND"),
        ("FULEXO_SIGNER_SOCKET", "", "configuration.no_signer FULEXO_SIGNER_SOCKET"),
        ("FULEXO_TRUST_POLICY_FILE", "", "configuration.no_witnesses FULEXO_TRUST_POLICY_FILE"),
        ("FULEXO_RATE_LIMITS", "off", "configuration.invalid FULEXO_RATE_LIMITS"),
        ("FULEXO_UNHEARD_OF", "1", "configuration.invalid FULEXO_UNHEARD_OF"),
    ] {
        assert_eq!(with(&[(name, value)]), set([finding]), "{name}={value}");
    }
    let off = [("APP_ENV", "development"), ("FULEXO_RATE_LIMITS", "off"), ("FULEXO_BCRYPT_COST", "4")];
    let findings = set([
        "configuration.development APP_ENV",
        "configuration.no_rate_limits FULEXO_RATE_LIMITS",
        "configuration.cheap_hashes FULEXO_BCRYPT_COST",
    ]);
    assert_eq!(with(&off), findings);

    let key = "second:kD4n0Wc1uYx8rJq7mV2sZt6hPb3gLf9eXa5iUo0yRwE=";
    let both = with(&[("ENCRYPTION_KEYS", key)]);
    assert_eq!(both, set(["secrets.in_environment ENCRYPTION_KEYS"]));
    instance.plant("alter role fulexo password 'fulexo-2026'").await;
    let url = instance.env["DATABASE_URL"].replace(super::STRONG[0], "fulexo-2026");
    assert_eq!(with(&[("DATABASE_URL", &url)]), set(["secrets.weak DATABASE_URL"]));
    instance.plant(&format!("alter role fulexo password '{}'", super::STRONG[1])).await;
    let url = instance.env["DATABASE_URL"].replace(super::STRONG[0], super::STRONG[1]);
    assert_eq!(with(&[("DATABASE_URL", &url)]), set(["secrets.shared DATABASE_OWNER_URL"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_others_can_read_or_replace_is_found_as_itself() {
    let instance = Instance::start().await;
    let path = instance.path("jwt.pem");
    let subject = format!("JWT_PRIVATE_KEY_FILE ({})", path.display());
    for (mode, rule) in [(0o604, "files.open"), (0o602, "files.open"), (0o640, "files.group"), (0o600, "")] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let expected = if rule.is_empty() { set([]) } else { set([&format!("{rule} {subject}")]) };
        assert_eq!(found(&instance, &instance.env), expected, "{mode:o}");
    }
    let mut env = instance.env.clone();
    env.insert("PGPASSFILE".to_owned(), "/nowhere/at/all".to_owned());
    assert_eq!(found(&instance, &env), set(["files.unreadable PGPASSFILE (/nowhere/at/all)"]));
    // Only root gives files away.
    if chown(&path, Some(65_534), None).is_ok() {
        assert_eq!(found(&instance, &instance.env), set([&format!("files.foreign {subject}")]));
        chown(&path, Some(0), None).unwrap();
    }
    let shared = instance.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::copy(&path, shared.join("jwt.pem")).unwrap();
    for (mode, is_found) in [(0o777, true), (0o1777, false)] {
        fs::set_permissions(&shared, Permissions::from_mode(mode)).unwrap();
        let mut env = instance.env.clone();
        let moved = shared.join("jwt.pem").display().to_string();
        env.insert("JWT_PRIVATE_KEY_FILE".to_owned(), moved.clone());
        let expected = format!("files.directory JWT_PRIVATE_KEY_FILE ({moved})");
        assert_eq!(found(&instance, &env), if is_found { set([&expected]) } else { set([]) }, "{mode:o}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_lets_anybody_in_is_found_as_itself_and_one_that_is_away_is_not_checked() {
    let instance = Instance::start().await;
    let port = free_port();
    let open = OpenNats::start("127.0.0.1", port, &[]).await;
    let mut env = instance.env.clone();
    // It does not ask for them, and lets in whoever has them, too.
    env.insert("NATS_URL".to_owned(), format!("nats://fulexo:{}@127.0.0.1:{port}", "5d1e0f29b7a4c688f1c66d2b04e7a83c"));
    assert_eq!(found(&instance, &env), set([&format!("nats.anonymous 127.0.0.1:{port}")]));
    drop(open);
    let away = Audited::of(&Instance::run_with(&env, &["--json", "--key", &instance.vkey]));
    assert_eq!(away.unchecked().into_keys().collect::<Vec<_>>(), ["nats"]);
    assert!(!away.report.to_string().contains("5d1e0f29b7a4c688"), "{:#}", away.report);

    // Sends nothing: it asks which address of this machine leads elsewhere. A machine without a network has none.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).map(|it| it.ip().to_string());
    let Some(address) = address.ok().filter(|it| !it.starts_with("127.")) else { return };
    let credentials = ["--user", "fulexo", "--pass", "5d1e0f29b7a4c688f1c66d2b04e7a83c"];
    let _plain = OpenNats::start(&address, port, &credentials).await;
    env.insert("NATS_URL".to_owned(), format!("nats://fulexo:{}@{address}:{port}", credentials[3]));
    assert_eq!(found(&instance, &env), set([&format!("nats.plain {address}:{port}")]));
}
