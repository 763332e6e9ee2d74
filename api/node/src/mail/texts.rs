//! What a mail says. Values that come from a request are hostile: they stand on lines of their own, cut, and without
//! anything that a mail program would make a link of.

use chrono::{DateTime, Utc};
use fulexo_commands::MailKind;

/// What a mail tells.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// What it is about.
    pub kind: MailKind,
    /// The secret of its link, in base64url.
    pub token: &'a str,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// From which address.
    pub ip: Option<&'a str>,
    /// By which browser, as it says itself.
    pub user_agent: Option<&'a str>,
}

/// Most characters of a value that a request has brought.
const LONGEST: usize = 200;
/// Most characters of a line (RFC 5322, section 2.1.1), but for the one with the link.
const WIDTH: usize = 78;

/// Subject and text. The subject has no personal data in it; lines end in `\n`. The token is in the fragment of the
/// link, which browsers keep to themselves (RFC 9110, section 4.2.5).
#[must_use]
pub fn letter(public_url: &str, mail: &Facts<'_>) -> (String, String) {
    let words = words(mail.kind);
    let mut text = format!("Hello,\n\n{}\n\n", words.what);
    text.push_str(&line("When", &mail.at.format("%-d %B %Y, %H:%M:%S UTC").to_string()));
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
    /// What happened.
    what: &'static str,
    /// What the link is for; without one, what else to do.
    lead: &'static str,
    /// Where the link leads, below `/account/`.
    page: Option<&'static str>,
    /// For how long, and what if not.
    end: &'static str,
}

impl Words {
    const fn notice(subject: &'static str, what: &'static str) -> Self {
        Self { subject, what, lead: WAS_THIS_YOU, page: Some("not-me"), end: NOT_ME_END }
    }
}

const WAS_THIS_YOU: &str =
    "If this was you, you need not do anything.\n\nIf it was not you, open this link and say so:";
const NOT_ME_END: &str = "Once you have confirmed it there, everybody is logged out, your password opens\nnothing any \
                          more, and a link to a new one is mailed to you. The link above\nworks once, within 7 days.";

fn words(kind: MailKind) -> Words {
    match kind {
        MailKind::PasswordReset => Words {
            subject: "Choose a new password",
            what: "Somebody asked for a new password for your account. Your password has not\nbeen changed.",
            lead: "If it was you, choose the new password here:",
            page: Some("reset-password"),
            end: "The link works once, within 30 minutes.\n\nIf it was not you, you need not do anything: your password \
                  stays as\nit is. Do not pass the link on.",
        },
        MailKind::ResetWhileSuspended => Words {
            subject: "Your account is suspended",
            what: "A new password was asked for, but your account is suspended: nobody can log in\nto it, and its password \
                   cannot be changed.",
            lead: "If you need the account, ask an administrator of this service to reinstate it,\nand then ask for a new \
                   password again.",
            page: None,
            end: "If it was not you who asked, you need not do anything.",
        },
        MailKind::IntrusionReported => Words {
            subject: "Your account is closed to others",
            what: "You told us that somebody else got into your account. Everybody is logged\nout, and the old password opens \
                   nothing any more.",
            lead: "Choose a new password here:",
            page: Some("reset-password"),
            end: "The link works once, within 30 minutes; after that, ask for another one.\n\nThen look at the second \
                  factor of your account: if it is not yours, ask an\nadministrator to reset it.",
        },
        MailKind::EmailVerification => Words {
            subject: "Confirm your e-mail address",
            what: "This address was given for an account. Please confirm that it is yours.",
            lead: "If you gave it, confirm it here:",
            page: Some("verify-email"),
            end: "The link works once, within 24 hours.\n\nIf you did not, you need not do anything: the address then \
                  stays\nunconfirmed.",
        },
        MailKind::NewDevice => Words::notice(
            "A login from a new device",
            "Somebody logged in to your account, with the right password, from a device\nthat has not been seen before.",
        ),
        MailKind::LockedOut => Words::notice(
            "Logins to your account are paused",
            "There were too many wrong passwords or codes for your account, so logins are\npaused for a while. \
             That ends by itself. None of them let anybody in.",
        ),
        MailKind::PasswordChanged => {
            Words::notice("Your password was changed", "The password of your account was changed.")
        }
        MailKind::SecondFactorEnabled => Words::notice(
            "A second factor was set up",
            "A second factor was set up for your account. From now on a login asks for a\ncode as well.",
        ),
        MailKind::SecondFactorDisabled => Words::notice(
            "Your second factor was removed",
            "The second factor of your account was removed. A login does not ask for a\ncode any more.",
        ),
        MailKind::RecoveryCodesIssued => Words::notice(
            "New recovery codes were issued",
            "New recovery codes were issued for your account. The earlier ones do not work\nany more.",
        ),
    }
}

/// A value under its name, folded where it is long.
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

/// What is left of a hostile value: one line of visible characters of ASCII, at most 200, and nothing that looks like a
/// link or an address to write to. A dot may stay between digits (versions, IPv4); elsewhere it is followed by a space,
/// since mail programs make links of bare names such as `example.com` too.
fn harmless(value: &str) -> String {
    let mut seen = String::new();
    let mut before = ' ';
    let mut characters = value.chars().take(LONGEST).peekable();
    while let Some(c) = characters.next() {
        let digit_follows = characters.peek().is_some_and(char::is_ascii_digit);
        match c {
            // Two of them begin the rest of a URL; one is in `Mozilla/5.0` and in an IPv6 address.
            '/' if before == '/' || before == ':' => seen.push(' '),
            '@' | '<' | '>' | '"' | '\\' => seen.push(' '),
            '.' if !(before.is_ascii_digit() && digit_follows) => seen.push_str(". "),
            ' '..='~' => seen.push(c),
            // Controls, breaks of line, letters of other scripts, and what turns the direction of text.
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
        letter("https://auth.example.com", &Facts { kind, token: "abc_-123", at, ip, user_agent })
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
                | MailKind::RecoveryCodesIssued => ("not-me", "7 days"),
            };
            let link = format!("\n\nhttps://auth.example.com/account/{page}#token=abc_-123\n\n");
            assert!(text.contains(&link), "{text}");
            assert_eq!(text.matches("://").count(), 1, "{text}");
            assert_eq!(text.matches("abc_-123").count(), 1, "{text}");
            assert!(text.contains("works once") && text.contains(life), "{text}");
            // Whoever has asked for it has something to do.
            assert_ne!(text.contains("need not do anything"), kind == MailKind::IntrusionReported, "{text}");
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
        assert!(text.contains("  When:    24 November 2026, 13:05:09 UTC\n"), "{text}");
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
            // Whatever it says is indented, under its name.
            let stray = text.lines().filter(|line| !line.starts_with("  ")).count();
            assert_eq!(stray, plain.lines().filter(|line| !line.starts_with("  ")).count(), "{text}");
        }
        assert!(harmless(&"..".repeat(1_000)).len() <= LONGEST);
    }
}
