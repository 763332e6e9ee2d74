//! Letters on their way: to a mail server over a real connection, and into files.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use fulexo_domain::values::EmailAddress;
use fulexo_node::config::Config;
use fulexo_node::mail::{Letter, SendError, Transport};
use fulexo_tests::{Behaviour, Sink};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x0193_5b2a_0000_7000_8000_0000_0000_0001);

fn transport(changes: &[(&str, &str)]) -> Transport {
    let base = [
        ("DATABASE_URL", "postgresql://fulexo:pw@127.0.0.1/fulexo"),
        ("JWT_SECRET", "a secret of sixty-four characters, as the security document says!"),
        ("ENCRYPTION_KEY", "cXVpZXQtT3R0ZXI3IHBhaW50cyAxMiBncmVlbiBvd2w="),
        ("MAIL_FROM", "Fulexo <no-reply@example.com>"),
        ("FULEXO_PUBLIC_URL", "https://auth.example.com"),
    ];
    let vars = base.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let config = Config::from_vars(vars, |_| Err("no such file".to_owned())).unwrap_or_else(|error| panic!("{error}"));
    Transport::new(&config.mail.unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

fn to(sink: &Sink) -> Transport {
    transport(&[("SMTP_URL", &sink.url())])
}

fn letter(address: &str, subject: &str, text: &str) -> Letter {
    let to = EmailAddress::parse(address).ok().unwrap();
    Letter { to, subject: subject.to_owned(), text: text.to_owned(), id: ID }
}

fn plain() -> Letter {
    letter("ann@example.org", "A login", "Hello,\n\nhttps://auth.example.com/account/not-me#token=abc\n")
}

#[tokio::test]
async fn a_letter_arrives_with_the_headers_of_a_machine() {
    let sink = Sink::start().await;
    to(&sink).send(&plain()).await.unwrap();
    let mails = sink.mails();
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!((mail.from.as_str(), mail.to.as_slice()), ("no-reply@example.com", &["ann@example.org".to_owned()][..]));
    let header = |name: &str| mail.header(name).unwrap_or_else(|| panic!("no {name}: {}", mail.data));
    assert_eq!(header("From"), "Fulexo <no-reply@example.com>");
    assert_eq!(header("To"), "ann@example.org");
    assert_eq!(header("Subject"), "A login");
    assert_eq!(header("Message-ID"), format!("<{ID}@example.com>"));
    assert_eq!(header("Auto-Submitted"), "auto-generated");
    assert_eq!(header("MIME-Version"), "1.0");
    assert_eq!(header("Content-Type"), "text/plain; charset=utf-8");
    assert!(header("Date").ends_with(" +0000"), "{}", header("Date"));
    assert_eq!(mail.text(), plain().text + "\n");
    // The client says goodbye to the server.
    assert_eq!(sink.commands(), ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]);
}

#[tokio::test]
async fn a_letter_sent_again_has_the_same_message_id() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    transport.send(&plain()).await.unwrap();
    transport.send(&plain()).await.unwrap();
    let ids: Vec<_> = sink.mails().iter().map(|mail| mail.header("Message-ID").unwrap()).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
}

#[tokio::test]
async fn text_beyond_ascii_long_lines_and_lone_dots_arrive_as_they_were() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    let long = "x".repeat(3_000);
    let texts = ["Grüße, Łukasz — 你好 🙂\n", "one\n.\n..two\n. three\n", &format!("{long}\n.{long}\n"), "= =3D =\n"];
    for text in texts {
        transport.send(&letter("ann@example.org", "Grüße, Łukasz", text)).await.unwrap();
    }
    let mails = sink.mails();
    assert_eq!(mails.len(), texts.len());
    for (mail, text) in mails.iter().zip(texts) {
        assert_eq!(mail.text().trim_end_matches('\n'), text.trim_end_matches('\n'));
        assert!(mail.data.is_ascii(), "{}", mail.data);
        assert!(mail.header("Subject").unwrap().starts_with("=?utf-8?"), "{:?}", mail.header("Subject"));
    }
}

#[tokio::test]
async fn no_subject_and_no_address_adds_a_header_or_a_recipient() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    for subject in
        ["Hello\r\nBcc: eve@example.net\r\n\r\nBuy", "Hello\nBcc: eve@example.net", "Grüße\r\nBcc: eve@example.net"]
    {
        transport.send(&letter("ann@example.org", subject, "text\n")).await.unwrap();
    }
    let mails = sink.mails();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[0].header("Subject").unwrap(), "Hello  Bcc: eve@example.net    Buy");
    for mail in mails {
        assert_eq!(mail.to, ["ann@example.org"]);
        assert_eq!(mail.header("Bcc"), None, "{}", mail.data);
        assert_eq!(mail.text().trim_end(), "text");
    }
    for address in
        ["ann@example.org\r\nRCPT TO:<eve@example.net>", "ann@example.org,eve@example.net", "<ann@example.org>"]
    {
        assert!(EmailAddress::parse(address).is_err(), "{address:?}");
    }
}

#[tokio::test]
async fn a_domain_beyond_ascii_is_written_in_ascii_and_a_name_beyond_it_needs_the_servers_leave() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    transport.send(&letter("ann@bücher.example", "A login", "text\n")).await.unwrap();
    assert_eq!(sink.mails()[0].to, ["ann@xn--bcher-kva.example"]);

    let personal = letter("jürgen@example.org", "A login", "text\n");
    let error = transport.send(&personal).await.unwrap_err();
    assert_eq!((error, error.is_permanent()), (SendError::Address, true));
    sink.offer(&["8BITMIME", "SMTPUTF8"]);
    transport.send(&personal).await.unwrap();
    assert_eq!(sink.mails()[1].to, ["jürgen@example.org"]);
}

#[tokio::test]
async fn what_is_refused_for_now_and_what_for_good_is_told_apart() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    for (code, permanent) in [(421, false), (450, false), (452, false), (550, true), (553, true), (554, true)] {
        sink.behave(Behaviour::Refuse(code));
        let error = transport.send(&plain()).await.unwrap_err();
        assert_eq!(error.is_permanent(), permanent, "{code}: {error}");
        assert!(error.to_string().contains(&code.to_string()), "{error}");
    }
    // The server wants a login: its operator must act, or we; the letter is not at fault.
    sink.behave(Behaviour::Refuse(530));
    assert!(!transport.send(&plain()).await.unwrap_err().is_permanent());
    sink.behave(Behaviour::Accept);
    transport.send(&plain()).await.unwrap();
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn no_error_repeats_the_address_or_what_the_server_said() {
    let sink = Sink::start().await;
    let transport = to(&sink);
    for behaviour in [Behaviour::Refuse(450), Behaviour::Refuse(550), Behaviour::Drop] {
        sink.behave(behaviour);
        let error = transport.send(&plain()).await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("ann") && !said.contains("example") && !said.contains("wanted"), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_breaks_off_or_is_not_there_costs_a_bounded_time_and_may_be_tried_again() {
    let sink = Sink::start().await;
    sink.behave(Behaviour::Hang);
    let error = to(&sink).within(Duration::from_millis(200)).send(&plain()).await.unwrap_err();
    assert_eq!((error, error.is_permanent()), (SendError::Timeout, false));

    sink.behave(Behaviour::Drop);
    let error = to(&sink).send(&plain()).await.unwrap_err();
    assert!(matches!(error, SendError::Connection(_)) && !error.is_permanent(), "{error}");
    assert!(sink.mails().is_empty());

    let url = sink.url();
    drop(sink);
    let gone = transport(&[("SMTP_URL", &url)]).within(Duration::from_secs(5));
    let error = gone.send(&plain()).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
}

#[tokio::test]
async fn beyond_this_machine_nothing_is_said_without_tls() {
    let sink = Sink::start().await;
    // The name is not a loopback address, but leads to the sink. It offers no STARTTLS, or one that fails.
    let login = format!("smtp://user:password@0.0.0.0:{}", sink.port());
    for extensions in [&["8BITMIME", "AUTH PLAIN LOGIN"][..], &["STARTTLS", "AUTH PLAIN LOGIN"]] {
        sink.offer(extensions);
        let error = transport(&[("SMTP_URL", &login)]).send(&plain()).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    }
    assert_eq!(sink.commands(), ["EHLO", "EHLO", "STARTTLS"], "and no AUTH, no MAIL");
    assert!(sink.mails().is_empty());
}

/// The environment says which roots a process trusts, so this test continues in its own process.
#[test]
fn by_tls_a_letter_goes_to_whom_the_system_trusts_under_that_name_and_to_nobody_else() {
    let name = "letters::by_tls_a_letter_goes_to_whom_the_system_trusts_under_that_name_and_to_nobody_else";
    if let Ok(file) = std::env::var("SSL_CERT_FILE")
        && file.ends_with("trusted-by-letters.pem")
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(with_trust(&file));
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("trust-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("SSL_CERT_FILE", dir.join("trusted-by-letters.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
}

async fn with_trust(file: &str) {
    let certified = |names: &[&str]| {
        rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
    };
    let trusted = certified(&["127.0.0.1", "0.0.0.0"]);
    let misnamed = certified(&["mail.example.com"]);
    std::fs::write(file, trusted.cert.pem() + &misnamed.cert.pem()).unwrap();
    let stranger = certified(&["127.0.0.1", "0.0.0.0"]);
    // STARTTLS uses a name that is not loopback's, as above.
    for (at_once, url, before) in [
        (true, "smtps://user:password@127.0.0.1", &[][..]),
        (false, "smtp://user:password@0.0.0.0", &["EHLO", "STARTTLS"]),
    ] {
        let sink = Sink::start_tls(&trusted, at_once).await;
        sink.offer(if at_once { &["AUTH PLAIN"] } else { &["AUTH PLAIN", "STARTTLS"] });
        transport(&[("SMTP_URL", &format!("{url}:{}", sink.port()))]).send(&plain()).await.unwrap();
        assert_eq!(sink.mails().len(), 1);
        assert_eq!(sink.commands(), [before, &["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]].concat());
        for other in [&stranger, &misnamed] {
            let sink = Sink::start_tls(other, at_once).await;
            let error = transport(&[("SMTP_URL", &format!("{url}:{}", sink.port()))]).send(&plain()).await.unwrap_err();
            assert!(matches!(error, SendError::Connection(_)) && !error.is_permanent(), "{error}");
            assert_eq!(sink.commands(), before, "neither a login nor a letter");
        }
        // A server without TLS, where TLS is expected, is not accepted either.
        let sink = Sink::start().await;
        let limit = Duration::from_secs(2);
        let error = transport(&[("SMTP_URL", &format!("{url}:{}", sink.port()))]).within(limit).send(&plain()).await;
        assert!(error.is_err() && sink.mails().is_empty());
    }
}

#[tokio::test]
async fn to_this_machine_a_login_goes_without_tls() {
    let sink = Sink::start().await;
    sink.offer(&["AUTH PLAIN LOGIN"]);
    let url = format!("smtp://user:password@127.0.0.1:{}", sink.port());
    transport(&[("SMTP_URL", &url)]).send(&plain()).await.unwrap();
    assert_eq!(sink.commands(), ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]);
}

#[tokio::test]
async fn letters_become_files_that_their_owner_alone_can_read() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("letters-{}", std::process::id()));
    let transport = transport(&[("FULEXO_MAIL_DIR", dir.to_str().unwrap())]);
    transport.send(&letter("jürgen@example.org", "Grüße", "Grüße\n")).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let name = file.file_name().into_string().unwrap();
    assert!(name.ends_with(&format!("Z-{ID}.eml")), "{name}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(
        text.contains("To: jürgen@example.org\r\n") && text.contains("Auto-Submitted: auto-generated\r\n"),
        "{text}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
