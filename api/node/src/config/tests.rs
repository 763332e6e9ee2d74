use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use fulexo_domain::rate_limit::{Quota, RateLimit, RouteGroup};

use super::keys::{parse_key, pem_blocks};
use super::mail::{MailTransport, SmtpSecurity};
use super::reader::DEMO;
use super::*;

const SECRET: &str = "a secret of sixty-four characters, as the security document says!";

fn sound() -> BTreeMap<String, String> {
    [
        ("DATABASE_URL", "postgresql://fulexo:pw@127.0.0.1/fulexo"),
        ("JWT_SECRET", SECRET),
        ("ENCRYPTION_KEY", "quiet-Otter7 paints 12 green owl"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn problems(changes: &[(&str, &str)]) -> Vec<String> {
    let mut vars = sound();
    vars.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let read = |_: &str| Err("no such file".to_owned());
    Config::from_vars(vars, read).err().map_or_else(Vec::new, |errors| errors.0)
}

#[test]
fn the_least_configuration_is_three_variables() {
    assert_eq!(problems(&[]), Vec::<String>::new());
}

#[test]
fn every_problem_is_named_at_once() {
    let found = problems(&[
        ("JWT_SECRET", "short"),
        ("ENCRYPTION_KEY", "short"),
        ("DATABASE_URL", "mysql://x"),
        ("FULEXO_PROT", "80"),
        ("JWT_EXPIRES_IN", "1 fortnight"),
        ("TRUSTED_PROXIES", "0.0.0.0/0"),
    ]);
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn production_refuses_hs256_plain_http_and_a_nats_without_a_password() {
    let found = problems(&[("APP_ENV", "production"), ("NATS_URL", "nats://127.0.0.1:4222")]);
    assert!(found.iter().any(|problem| problem.starts_with("JWT_SECRET")), "{found:#?}");
    assert!(found.iter().any(|problem| problem.starts_with("TRUSTED_PROXIES")), "{found:#?}");
    assert!(found.iter().any(|problem| problem.starts_with("NATS_URL")), "{found:#?}");
}

#[test]
fn the_examples_of_the_documentation_are_refused() {
    let secret = format!("{}-and-some-more-characters", DEMO[0]);
    assert_eq!(problems(&[("JWT_SECRET", &secret)]).len(), 1);
    assert_eq!(problems(&[("ENCRYPTION_KEY", DEMO[1])]).len(), 1);
}

#[test]
fn production_takes_a_key_of_thirty_two_bytes_in_base64_and_development_one_of_as_many_characters() {
    let bytes: Vec<u8> = (0..32_u8).map(|byte| byte.wrapping_mul(byte).wrapping_mul(77) ^ 0x5a).collect();
    let text = "quiet-Otter7 paints 12 green owl";
    for (key, in_development, in_production) in [
        (STANDARD.encode(&bytes), true, true),
        (URL_SAFE_NO_PAD.encode(&bytes), true, true),
        (text.to_owned(), true, false),
        (STANDARD.encode(text), true, true),
        (STANDARD.encode(&bytes[1..]), false, false),
        (STANDARD.encode([&bytes[..], &[7]].concat()), false, false),
        (text[1..].to_owned(), false, false),
        (format!("{text}!"), false, false),
        (String::new(), false, false),
    ] {
        for (environment, is_taken) in
            [(Environment::Development, in_development), (Environment::Production, in_production)]
        {
            assert_eq!(parse_key(&key, environment).is_ok(), is_taken, "{key} {environment:?}");
        }
    }
}

/// Each is a kind: one thing over and over, alphabets, digits, steps, rows of keys, and these in upper case and in turn.
#[test]
fn a_secret_that_repeats_itself_or_runs_in_sequence_does_not_start() {
    const UNITS: [&str; 15] = [
        "a",
        "ab",
        "0123456789abcdef",
        "0123456789",
        "9876543210",
        "abcdefghijklmnopqrstuvwxyz",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
        "zyxwvutsrqponmlkjihgfedcba",
        "acegikmoqsuwy",
        "00112233445566778899",
        "qwertyuiopasdfghjklzxcvbnm1234567890",
        "changeme-",
        "password",
        "PassWord",
        "fulexo-development-",
    ];
    for unit in UNITS {
        let of_length = |length| unit.chars().cycle().take(length).collect::<String>();
        for length in [64, 65, 72, 128] {
            let found = problems(&[("JWT_SECRET", &of_length(length))]);
            assert!(
                found.len() == 1 && found[0].starts_with("JWT_SECRET repeats itself"),
                "{unit} {length}: {found:#?}"
            );
        }
        let weak = of_length(32);
        for key in [weak.clone(), STANDARD.encode(&weak)] {
            let found = problems(&[("ENCRYPTION_KEY", &key)]);
            assert!(found.len() == 1 && found[0].starts_with("ENCRYPTION_KEY repeats itself"), "{unit}: {found:#?}");
            let found = problems(&[("ENCRYPTION_KEYS", &format!("2027:{key}"))]);
            assert!(found.len() == 1 && found[0].contains("2027") && !found[0].contains(&key), "{unit}: {found:#?}");
        }
    }
    let counted = "changeme1changeme2changeme3changeme4changeme5changeme6changeme7changeme8";
    assert_eq!(problems(&[("JWT_SECRET", counted)]).len(), 1);
    let sequences: [Vec<u8>; 4] =
        [vec![0; 32], vec![255; 32], (0..32).collect(), (0..32).map(|byte: u8| byte.wrapping_mul(9)).collect()];
    for bytes in sequences {
        let found = problems(&[("ENCRYPTION_KEY", &STANDARD.encode(&bytes))]);
        assert!(found.len() == 1 && found[0].starts_with("ENCRYPTION_KEY repeats itself"), "{bytes:?}: {found:#?}");
    }
}

#[test]
fn credentials_for_nats_that_cannot_be_read_are_named_with_the_other_problems() {
    let found = problems(&[("NATS_CREDS", "/nowhere/nats.creds"), ("NATS_URL", "nats://[::1"), ("APP_ENV", "prod")]);
    assert!(
        found.iter().any(|problem| problem.starts_with("NATS_CREDS: cannot read /nowhere/nats.creds")),
        "{found:#?}"
    );
    assert!(found.iter().any(|problem| problem.starts_with("NATS_URL must be a NATS URL")), "{found:#?}");
}

#[test]
fn no_message_repeats_a_secret() {
    let found = problems(&[
        ("JWT_SECRET", "hunter2"),
        ("ENCRYPTION_KEY", "hunter3"),
        ("DATABASE_URL", "hunter4"),
        ("SMTP_URL", "smtp://u:hunter5@h/x"),
    ]);
    assert!(found.iter().all(|problem| !problem.contains("hunter")), "{found:#?}");
}

#[test]
fn several_private_keys_may_stand_in_one_file() {
    let text = "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\nnote\n-----BEGIN PUBLIC KEY-----\nBB\n\
                -----END PUBLIC KEY-----\n-----BEGIN RSA PRIVATE KEY-----\nCC\n-----END RSA PRIVATE KEY-----\n";
    let blocks = pem_blocks(text);
    assert_eq!(blocks.len(), 2);
    assert!(blocks[0].contains("AA") && blocks[1].contains("CC"));
}

#[test]
fn the_copy_in_nats_has_one_three_five_or_no_replicas_and_a_feed_needs_nats() {
    for replicas in ["0", "1", "3", "5"] {
        assert_eq!(problems(&[("FULEXO_NATS_REPLICAS", replicas)]), Vec::<String>::new());
    }
    for replicas in ["2", "4", "7", "-1", "some"] {
        assert_eq!(problems(&[("FULEXO_NATS_REPLICAS", replicas)]).len(), 1);
    }
    assert_eq!(problems(&[("FULEXO_FEED", "jetstream")]).len(), 1);
    assert_eq!(problems(&[("FULEXO_FEED", "jetstream"), ("NATS_URL", "nats://a:b@c,nats://a:b@d")]).len(), 0);
    assert_eq!(problems(&[("FULEXO_FEED", "kafka")]).len(), 1);
}

#[test]
fn quotas_are_named_one_by_one_and_only_development_may_lift_them() {
    let limits = |text: &str| {
        let vars = sound().into_iter().chain([("FULEXO_RATE_LIMITS".to_owned(), text.to_owned())]).collect();
        Config::from_vars(vars, |_| Err("no such file".to_owned())).ok().map(|config| config.rate_limits)
    };
    let default = limits("").unwrap().unwrap();
    assert_eq!(default, RateLimits::default());
    let login = RateLimit::Route(RouteGroup::Login);
    let changed = limits(" login=5/10s , address=10000/1h ").unwrap().unwrap();
    assert_eq!(Some(changed.quota(login)), Quota::new(5, TimeDelta::seconds(10)));
    assert_eq!(Some(changed.quota(RateLimit::Address)), Quota::new(10_000, TimeDelta::hours(1)));
    assert_eq!(changed.quota(RateLimit::Account), default.quota(RateLimit::Account));
    assert_eq!(limits("off"), Some(None));
    for wrong in ["login", "login=5", "login=5/10", "login=0/1m", "logins=5/1m", "login=5/2d", "on", "login=off"] {
        let found = problems(&[("FULEXO_RATE_LIMITS", wrong)]);
        assert!(found.len() == 1 && found[0].starts_with("FULEXO_RATE_LIMITS contains"), "{wrong}: {found:#?}");
    }
    let found = problems(&[("APP_ENV", "production"), ("FULEXO_RATE_LIMITS", "off")]);
    assert!(found.iter().any(|problem| problem.starts_with("FULEXO_RATE_LIMITS is off")), "{found:#?}");
}

fn mail(changes: &[(&str, &str)]) -> Option<MailConfig> {
    let mut vars = sound();
    vars.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Config::from_vars(vars, |_| Err("no such file".to_owned())).ok().unwrap().mail
}

const FROM: (&str, &str) = ("MAIL_FROM", "Fulexo <no-reply@example.com>");
const PUBLIC: (&str, &str) = ("FULEXO_PUBLIC_URL", "https://auth.example.com/");

#[test]
fn mail_goes_by_tls_by_starttls_or_plain_to_this_machine_alone() {
    let relay = |url: &str| match mail(&[("SMTP_URL", url), FROM, PUBLIC]).unwrap().transport {
        MailTransport::Smtp(relay) => (relay.host, relay.port, relay.security, relay.login.is_some()),
        MailTransport::Files(_) => panic!("files"),
    };
    for (url, host, port, security, login) in [
        ("smtps://u%40x:p%2Fw@mail.example.com:4650", "mail.example.com", 4650, SmtpSecurity::Tls, true),
        ("smtps://mail.example.com", "mail.example.com", 465, SmtpSecurity::Tls, false),
        ("smtps://127.0.0.1", "127.0.0.1", 465, SmtpSecurity::Tls, false),
        ("smtp://u:p@mail.example.com", "mail.example.com", 587, SmtpSecurity::StartTls, true),
        ("smtp://192.0.2.7:25", "192.0.2.7", 25, SmtpSecurity::StartTls, false),
        ("smtp://localhost.example.com", "localhost.example.com", 587, SmtpSecurity::StartTls, false),
        ("smtp://localhost", "localhost", 25, SmtpSecurity::Loopback, false),
        ("smtp://127.0.0.1:2525", "127.0.0.1", 2525, SmtpSecurity::Loopback, false),
        ("smtp://[::1]:2525", "::1", 2525, SmtpSecurity::Loopback, false),
    ] {
        assert_eq!(relay(url), (host.to_owned(), port, security, login), "{url}");
    }
    let MailTransport::Smtp(relay) =
        mail(&[("SMTP_URL", "smtps://u%40x:p%2Fw@mail.example.com"), FROM, PUBLIC]).unwrap().transport
    else {
        panic!("files")
    };
    let login = relay.login.unwrap();
    assert_eq!((login.user.as_str(), login.password.as_str()), ("u@x", "p/w"));
}

#[test]
fn without_a_way_to_send_there_is_no_mail_and_with_one_the_rest_is_asked_for() {
    assert!(mail(&[]).is_none());
    assert!(mail(&[PUBLIC]).is_none());
    let found = problems(&[("SMTP_URL", "smtps://mail.example.com")]);
    assert!(found.len() == 2 && found[0].starts_with("MAIL_FROM is not") && found[1].starts_with("FULEXO_PUBLIC_URL"));
    for (changes, start) in [
        (&[FROM][..], "MAIL_FROM is set"),
        (
            &[("SMTP_URL", "smtp://localhost"), ("FULEXO_MAIL_DIR", "mail"), FROM, PUBLIC],
            "SMTP_URL and FULEXO_MAIL_DIR",
        ),
        (&[("SMTP_URL", "mail.example.com"), FROM, PUBLIC], "SMTP_URL must be"),
        (&[("SMTP_URL", "https://mail.example.com"), FROM, PUBLIC], "SMTP_URL must be"),
        (&[("SMTP_URL", "smtp://mail.example.com?tls=opportunistic"), FROM, PUBLIC], "SMTP_URL must be"),
        (&[("SMTP_URL", "smtp://user@mail.example.com"), FROM, PUBLIC], "SMTP_URL must be"),
        (&[("FULEXO_MAIL_DIR", "mail"), ("MAIL_FROM", "nobody"), PUBLIC], "MAIL_FROM must be"),
        (&[("FULEXO_MAIL_DIR", "mail"), ("MAIL_FROM", "a@example.com, b@example.com"), PUBLIC], "MAIL_FROM must be"),
        (&[("FULEXO_MAIL_DIR", "mail"), ("MAIL_FROM", "a@b.c\r\nBcc: d@e.f"), PUBLIC], "MAIL_FROM must be"),
        (&[("FULEXO_MAIL_DIR", "mail"), FROM, ("FULEXO_PUBLIC_URL", "auth.example.com")], "FULEXO_PUBLIC_URL must be"),
        (&[("FULEXO_MAIL_DIR", "mail"), FROM, ("FULEXO_ISSUER", "fulexo")], "FULEXO_ISSUER, which replaces"),
        (&[("FULEXO_PUBLIC_URL", "https://auth.example.com/#x")], "FULEXO_PUBLIC_URL must be"),
    ] {
        let found = problems(changes);
        assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:#?}");
    }
}

#[test]
fn links_lead_to_the_public_url_or_the_issuer_without_a_slash_at_the_end() {
    let files = ("FULEXO_MAIL_DIR", "mail");
    let issuer = ("FULEXO_ISSUER", "https://api.example.com/fulexo/");
    assert_eq!(mail(&[files, FROM, PUBLIC, issuer]).unwrap().public_url, "https://auth.example.com");
    assert_eq!(mail(&[files, FROM, issuer]).unwrap().public_url, "https://api.example.com/fulexo");
    let http = ("FULEXO_PUBLIC_URL", "http://127.0.0.1:8080");
    assert_eq!(mail(&[files, FROM, http]).unwrap().public_url, "http://127.0.0.1:8080");
}

#[test]
fn production_writes_no_mail_to_files_and_no_link_without_tls() {
    let found = problems(&[
        ("APP_ENV", "production"),
        ("FULEXO_MAIL_DIR", "mail"),
        FROM,
        ("FULEXO_PUBLIC_URL", "http://auth.example.com"),
    ]);
    assert!(found.iter().any(|problem| problem.starts_with("FULEXO_MAIL_DIR is set")), "{found:#?}");
    assert!(found.iter().any(|problem| problem.starts_with("FULEXO_PUBLIC_URL must begin with https")), "{found:#?}");
}
