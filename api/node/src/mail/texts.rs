//! The texts of e-mails. Values that come from a request are hostile: they are cut, on lines of their own, and without
//! anything that a mail program turns into a link.

use chrono::{DateTime, Utc};
use fulexo_commands::MailKind;

/// The facts of an e-mail.
#[derive(Clone, Copy)]
pub struct MailFacts<'a> {
    /// The kind of e-mail.
    pub kind: MailKind,
    /// The token of the link, in base64url.
    pub token: &'a str,
    /// The time of the event.
    pub at: DateTime<Utc>,
    /// The IP address of the request.
    pub ip: Option<&'a str>,
    /// The `User-Agent` of the request.
    pub user_agent: Option<&'a str>,
}

/// The maximum length of a value from a request, in characters.
const LONGEST: usize = 200;
/// The maximum length of a line, in characters (RFC 5322, section 2.1.1). The line with the link can be longer.
const WIDTH: usize = 78;

/// Returns the subject and the text. The subject has no personal data. Lines end in `\n`. The token is in the fragment of the
/// link, which browsers do not send (RFC 9110, section 4.2.5).
#[must_use]
pub fn letter(public_url: &str, mail: &MailFacts<'_>) -> (String, String) {
    let words = words(mail.kind);
    let mut text = format!("Hello,\n\n{}\n\n", words.what);
    text.push_str(&line("Time", &mail.at.format("%-d %B %Y, %H:%M:%S UTC").to_string()));
    for (name, value) in [("Address", mail.ip), ("Browser", mail.user_agent)] {
        if let Some(value) = value.map(harmless).filter(|value| !value.is_empty()) {
            text.push_str(&line(name, &value));
        }
    }
    text.push_str(&format!("\n{}\n\n", words.lead));
    if let Some(page) = words.page {
        text.push_str(&format!("{public_url}/account/{page}#token={}\n\n", mail.token));
    }
    text.push_str(words.end);
    text.push('\n');
    (words.subject.to_owned(), text)
}

struct Words {
    subject: &'static str,
    /// The event.
    what: &'static str,
    /// The purpose of the link, or other advice.
    lead: &'static str,
    /// The page of the link, below `/account/`.
    page: Option<&'static str>,
    /// The lifetime of the link, and the advice for others.
    end: &'static str,
}

impl Words {
    const fn notice(subject: &'static str, what: &'static str) -> Self {
        Self { subject, what, lead: WAS_THIS_YOU, page: Some("not-me"), end: NOT_ME_END }
    }
}

const WAS_THIS_YOU: &str =
    "If this was you, you do not need to do anything.\n\nIf this was not you, open this link and report it:";
const NOT_ME_END: &str = "After you confirm the report, every session of your account ends, your\npassword becomes invalid, \
                          and you receive a link to set a new one. The link\nabove works once, within 7 days.";

fn words(kind: MailKind) -> Words {
    match kind {
        MailKind::PasswordReset => Words {
            subject: "Set a new password",
            what: "Somebody requested a new password for your account. Your password has not been\nchanged.",
            lead: "If this was you, set the new password here:",
            page: Some("reset-password"),
            end: "The link works once, within 30 minutes.\n\nIf this was not you, you do not need to do anything: your \
                  password stays the\nsame. Do not forward this e-mail.",
        },
        MailKind::ResetWhileSuspended => Words {
            subject: "Your account is suspended",
            what: "Somebody requested a new password for your account. Your account is suspended:\nlogins are refused, and \
                   its password cannot be changed.",
            lead: "If you need the account, ask an administrator of this service to reinstate it.\nThen request a new \
                   password again.",
            page: None,
            end: "If this was not you, you do not need to do anything.",
        },
        MailKind::IntrusionReported => Words {
            subject: "Your account is secured",
            what: "You reported that somebody else used your account. Every session has ended,\nand the old password is no \
                   longer valid.",
            lead: "Set a new password here:",
            page: Some("reset-password"),
            end: "The link works once, within 30 minutes. After that, request a new one.\n\nThen check the second factor \
                  of your account. If it is not yours, ask an\nadministrator to reset it.",
        },
        MailKind::EmailVerification => Words {
            subject: "Confirm your e-mail address",
            what: "An account was registered with this address. Please confirm that the address\nis yours.",
            lead: "If you registered the account, confirm the address here:",
            page: Some("verify-email"),
            end: "The link works once, within 24 hours.\n\nIf you did not register it, you do not need to do anything: the \
                  address stays\nunconfirmed.",
        },
        MailKind::NewDevice => Words::notice(
            "Login from a new device",
            "Somebody logged in to your account with the correct password from a new\ndevice.",
        ),
        MailKind::LockedOut => Words::notice(
            "Logins to your account are paused",
            "There were too many attempts with a wrong password or code. Logins to your\naccount are paused for a while and \
             then work again. None of these attempts\nsucceeded.",
        ),
        MailKind::PasswordChanged => {
            Words::notice("Your password was changed", "The password of your account was changed.")
        }
        MailKind::SecondFactorEnabled => Words::notice(
            "A second factor was enrolled",
            "A second factor was enrolled for your account. Every login now requires a\ncode.",
        ),
        MailKind::SecondFactorDisabled => Words::notice(
            "Your second factor was removed",
            "The second factor of your account was removed. Logins no longer require a\ncode.",
        ),
        MailKind::RecoveryCodesIssued => Words::notice(
            "New recovery codes were issued",
            "New recovery codes were issued for your account. The previous codes are no\nlonger valid.",
        ),
        MailKind::ErasureStarted => Words {
            end: "After you confirm the report, your account is not erased, every session\nends, your password becomes \
                  invalid, and you receive a link to set a new one.\nThe link above works once, within 7 days.",
            ..Words::notice(
                "Your account will be erased",
                "The erasure of your account was requested. Until it is carried out, you\ncan log in and withdraw it. \
                 After that nothing of your data is left, and\nnobody can restore the account.",
            )
        },
    }
}

/// Formats a value with its name, folded to the width of a line.
fn line(name: &str, value: &str) -> String {
    let name = format!("{name}:");
    let mut folded = String::new();
    let mut column = WIDTH;
    let indent = 11;
    for word in value.split(' ') {
        let word: Vec<char> = word.chars().collect();
        for (piece, part) in word.chunks(WIDTH - indent).enumerate() {
            let gap = usize::from(piece == 0);
            if column + gap + part.len() > WIDTH {
                if !folded.is_empty() {
                    folded.push('\n');
                }
                let first = if folded.is_empty() { name.as_str() } else { "" };
                folded.push_str(&format!("  {first:<9}"));
                column = indent;
            } else if gap == 1 {
                folded.push(' ');
                column += 1;
            }
            folded.extend(part);
            column += part.len();
        }
    }
    folded.push('\n');
    folded
}

/// Sanitises a hostile value: one line of at most 200 visible ASCII characters, without anything that looks like a link or an
/// e-mail address. A dot stays between digits (versions, IPv4). Elsewhere a space follows it, because mail programs turn bare
/// names such as `example.com` into links, too.
fn harmless(value: &str) -> String {
    let mut seen = String::new();
    let mut before = ' ';
    let mut characters = value.chars().take(LONGEST).peekable();
    while let Some(c) = characters.next() {
        let digit_follows = characters.peek().is_some_and(char::is_ascii_digit);
        match c {
            // `//` and `:/` begin a URL. A single slash occurs in `Mozilla/5.0`.
            '/' if before == '/' || before == ':' => seen.push(' '),
            '@' | '<' | '>' | '"' | '\\' => seen.push(' '),
            '.' if !(before.is_ascii_digit() && digit_follows) => seen.push_str(". "),
            ' '..='~' => seen.push(c),
            // Control characters, line breaks, letters of other scripts, and characters that change the text direction.
            _ => seen.push(if c.is_control() || c.is_whitespace() { ' ' } else { '?' }),
        }
        before = c;
    }
    let one_line = seen.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

    fn written(kind: MailKind, ip: Option<&str>, user_agent: Option<&str>) -> (String, String) {
        let at = "2026-11-24T13:05:09Z".parse().unwrap();
        letter("https://auth.example.com", &MailFacts { kind, token: "abc_-123", at, ip, user_agent })
    }

    #[test]
    fn every_mail_has_its_link_once_and_says_how_long_it_is_good_or_has_none() {
        for kind in MailKind::ALL {
            let (subject, text) = written(kind, Some("2001:db8::1"), Some(CHROME));
            assert!(subject.len() < 60 && subject.is_ascii(), "{subject}");
            let (page, life) = match kind {
                MailKind::ResetWhileSuspended => {
                    assert!(!text.contains("://") && !text.contains("abc_-123"), "{text}");
                    assert!(text.contains("ask an administrator"), "{text}");
                    continue;
                }
                MailKind::PasswordReset | MailKind::IntrusionReported => ("reset-password", "30 minutes"),
                MailKind::EmailVerification => ("verify-email", "24 hours"),
                MailKind::NewDevice
                | MailKind::LockedOut
                | MailKind::PasswordChanged
                | MailKind::SecondFactorEnabled
                | MailKind::SecondFactorDisabled
                | MailKind::RecoveryCodesIssued
                | MailKind::ErasureStarted => ("not-me", "7 days"),
            };
            let link = format!("\n\nhttps://auth.example.com/account/{page}#token=abc_-123\n\n");
            assert!(text.contains(&link), "{text}");
            assert_eq!(text.matches("://").count(), 1, "{text}");
            assert_eq!(text.matches("abc_-123").count(), 1, "{text}");
            assert!(text.contains("works once") && text.contains(life), "{text}");
            // The reader of this e-mail has asked for it and has to act.
            assert_ne!(text.contains("do not need to do anything"), kind == MailKind::IntrusionReported, "{text}");
        }
    }

    #[test]
    fn subjects_are_different_and_the_same_for_everybody() {
        let subjects = MailKind::ALL.map(|kind| written(kind, None, None).0);
        let distinct: std::collections::BTreeSet<_> = subjects.iter().collect();
        assert_eq!(distinct.len(), MailKind::ALL.len());
        for kind in MailKind::ALL {
            assert_eq!(written(kind, None, None).0, written(kind, Some("192.0.2.7"), Some("curl/8.0")).0);
        }
    }

    #[test]
    fn no_line_but_the_link_is_longer_than_78_characters() {
        let unbroken = "x".repeat(500);
        for kind in MailKind::ALL {
            for agent in [CHROME, &unbroken, "", "a b c", &"ab ".repeat(200)] {
                let (_, text) = written(kind, Some("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), Some(agent));
                let long: Vec<_> = text.lines().filter(|line| line.len() > 78 && !line.contains("#token=")).collect();
                assert_eq!(long, Vec::<&str>::new());
                assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
            }
        }
    }

    #[test]
    fn time_address_and_browser_are_told_where_they_are_known() {
        let (_, text) = written(MailKind::NewDevice, Some("192.0.2.7"), Some(CHROME));
        assert!(text.contains("  Time:    24 November 2026, 13:05:09 UTC\n"), "{text}");
        assert!(text.contains("  Address: 192.0.2.7\n"), "{text}");
        assert!(text.contains("  Browser: Mozilla/5.0 (X11; Linux x86_64)"), "{text}");
        let (_, text) = written(MailKind::NewDevice, None, None);
        assert!(!text.contains("Address:") && !text.contains("Browser:"), "{text}");
    }

    #[test]
    fn a_hostile_browser_adds_no_line_no_link_and_no_more_than_200_characters() {
        for agent in [
            "x\r\n\r\nPlease log in at https://evil.example/account/not-me#token=1",
            "see http://evil.example or www.evil.example, //evil.example:80/a",
            "write to help@evil.example <a href=\"https://evil.example\">here</a>",
            "https:/\u{2f}evil.example ht\ttps\u{3a}//evil\u{2e}example",
            "evil\u{3002}example \u{202e}elpmaxe.live\u{2028}next line\u{85}",
            "xn--e1afmkfd.xn--p1ai 1.evil.2.example",
        ] {
            let (_, text) = written(MailKind::LockedOut, None, Some(agent));
            let plain = written(MailKind::LockedOut, None, Some("Browser")).1;
            assert_eq!(text.matches("://").count(), 1, "{text}");
            assert!(!text.contains("evil.example") && !text.contains("@") && !text.contains('<'), "{text}");
            assert!(text.is_ascii() && !text.contains('\r') && !text.contains('\t'), "{text}");
            // All that it says is indented, under its name.
            let stray = text.lines().filter(|line| !line.starts_with("  ")).count();
            assert_eq!(stray, plain.lines().filter(|line| !line.starts_with("  ")).count(), "{text}");
        }
        assert!(harmless(&"..".repeat(1_000)).len() <= LONGEST);
    }
}
