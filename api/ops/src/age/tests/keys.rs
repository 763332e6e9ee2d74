//! Keys as text.

use chrono::DateTime;
use proptest::prelude::*;

use super::{AgeError, EncryptingWriter, Identity, Recipient, again, encrypt};
use crate::age::recipient::MOST_RECIPIENTS;
use crate::age::{parse_identities, parse_recipients};

#[test]
fn a_key_file_is_that_of_age_keygen() {
    for identity in [Identity::generate().unwrap(), Identity::generate_hybrid().unwrap()] {
        let text = identity.key_file(DateTime::from_timestamp(1_800_000_000, 999_000_000).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        let recipient = format!("# public key: {}", identity.recipient());
        assert_eq!(lines, ["# created: 2027-01-15T08:00:00Z", &recipient, &identity.expose()]);
        assert!(text.ends_with('\n'));
        let parsed = parse_identities(&text).unwrap();
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].recipient(), identity.recipient());
    }
}

#[test]
fn files_of_keys_have_comments_and_empty_lines() {
    let (one, other) = (Identity::generate().unwrap().recipient(), Identity::generate().unwrap().recipient());
    let text = format!("# the first, in the safe\n\n{one}\r\n  \n#{one}\n\t{other} \n");
    assert_eq!(parse_recipients(&text).unwrap(), [one, other]);
}

#[test]
fn a_file_without_keys_is_refused() {
    assert!(matches!(parse_recipients("# none\n"), Err(AgeError::NoRecipients)));
    assert!(matches!(parse_identities(""), Err(AgeError::NoIdentities)));
}

#[test]
fn a_wrong_line_is_named_and_not_repeated() {
    let identity = Identity::generate().unwrap();
    let text = format!("# recipients\n{}\n{}\n", identity.recipient(), *identity.expose());
    let Err(AgeError::Line { line, source }) = parse_recipients(&text) else {
        panic!("a secret key was taken for a recipient");
    };
    assert_eq!(line, 3);
    assert!(matches!(*source, AgeError::InvalidRecipient));
    assert!(!format!("{source} {source:?}").contains(&identity.expose()[20..30]));
}

#[test]
fn too_many_recipients_are_refused() {
    let recipient = Identity::generate().unwrap().recipient();
    let most = vec![recipient.clone(); MOST_RECIPIENTS];
    assert!(EncryptingWriter::new(&most, Vec::new()).is_ok());
    let text = |count| format!("{recipient}\n").repeat(count);
    assert_eq!(parse_recipients(&text(MOST_RECIPIENTS)).unwrap().len(), MOST_RECIPIENTS);
    assert!(matches!(parse_recipients(&text(MOST_RECIPIENTS + 1)), Err(AgeError::TooManyKeys { most: 64 })));
    let more = vec![recipient; MOST_RECIPIENTS + 1];
    assert!(matches!(EncryptingWriter::new(&more, Vec::new()).err(), Some(AgeError::TooManyKeys { most: 64 })));
}

#[test]
fn the_most_hybrid_recipients_have_a_header_that_is_read() {
    let identity = Identity::generate_hybrid().unwrap();
    let file = encrypt(&vec![identity.recipient(); MOST_RECIPIENTS], b"backup");
    assert_eq!(super::decrypt(identity, &file).0, b"backup");
}

#[test]
fn recipients_of_both_kinds_are_refused_in_one_file() {
    let both = [Identity::generate().unwrap().recipient(), Identity::generate_hybrid().unwrap().recipient()];
    assert!(matches!(EncryptingWriter::new(&both, Vec::new()).err(), Some(AgeError::MixedRecipients)));
    let text = format!("{}\n{}\n", both[0], both[1]);
    assert!(matches!(parse_recipients(&text), Err(AgeError::MixedRecipients)));
}

#[test]
fn no_recipient_and_no_identity_are_refused() {
    assert!(matches!(EncryptingWriter::new(&[], Vec::new()).err(), Some(AgeError::NoRecipients)));
    assert!(matches!(super::decrypt_with(&[], b"").1, Some(AgeError::NoIdentities)));
}

#[test]
fn a_recipient_that_cannot_keep_a_secret_is_refused() {
    // The points of low order, and the other texts of 0, 1 and -1 (RFC 7748 masks the highest bit).
    for point in super::malformed::low_order_points() {
        let text = crate::age::key_text::encode(crate::age::key_text::AgeKeyKind::Public("age"), &point).unwrap();
        assert!(matches!(Recipient::parse(&text), Err(AgeError::InvalidRecipient)), "{point:?}");
    }
}

#[test]
fn a_hybrid_recipient_with_a_broken_half_is_refused() {
    let kind = crate::age::key_text::AgeKeyKind::Public("age1pq");
    let text = Identity::generate_hybrid().unwrap().recipient().to_string();
    let sound = *crate::age::key_text::decode::<1216>(kind, &text).unwrap();
    let parse = |key: &[u8]| Recipient::parse(&crate::age::key_text::encode(kind, key).unwrap());
    assert!(parse(&sound).is_ok());
    // A coefficient of 4095 is not below the modulus.
    let mut above = sound;
    above[..2].fill(0xff);
    assert!(matches!(parse(&above), Err(AgeError::InvalidRecipient)));
    let mut low = sound;
    low[1184..].fill(0);
    assert!(matches!(parse(&low), Err(AgeError::InvalidRecipient)));
    assert!(parse(&sound[1..]).is_err());
}

#[test]
fn a_key_has_one_text() {
    let identity = Identity::generate().unwrap();
    let (recipient, secret) = (identity.recipient().to_string(), identity.expose());
    for text in [
        recipient.to_uppercase(),
        format!(" {recipient}"),
        format!("{recipient}\n"),
        recipient.replacen("age1", "AGE1", 1),
        recipient.replacen("age1", "age1pq1", 1),
        recipient[..61].to_owned(),
        format!("{recipient}q"),
        String::new(),
        "age1".to_owned(),
        "age1pq1".to_owned(),
        "ägé1".to_owned(),
    ] {
        assert!(matches!(Recipient::parse(&text), Err(AgeError::InvalidRecipient)), "{text:?}");
    }
    for text in [secret.to_lowercase(), format!("{}\n", *secret), secret[1..].to_owned(), recipient] {
        assert!(matches!(Identity::parse(&text), Err(AgeError::InvalidIdentity)));
    }
    // 32 bytes are 52 characters with 4 bits too many, which must be zero: the same bytes with another padding and its
    // own, right checksum.
    let hrp = bech32::Hrp::parse("age").unwrap();
    let mut digits: Vec<bech32::Fe32> =
        bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(&identity.recipient().to_string())
            .unwrap()
            .fe32_iter()
            .collect();
    let last = digits.pop().unwrap();
    digits.push(bech32::Fe32::try_from(last.to_u8() | 1).unwrap());
    let padded: String = {
        use bech32::Fe32IterExt;
        digits.into_iter().with_checksum::<bech32::Bech32>(&hrp).chars().collect()
    };
    assert!(bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(&padded).is_ok());
    assert!(matches!(Recipient::parse(&padded), Err(AgeError::InvalidRecipient)));
}

#[test]
fn a_changed_character_of_a_key_is_noticed() {
    let identity = Identity::generate().unwrap();
    let text = identity.recipient().to_string();
    for at in 4..text.len() {
        let other = if text.as_bytes()[at] == b'q' { "p" } else { "q" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert!(Recipient::parse(&changed).is_err(), "{changed}");
    }
    assert_eq!(again(&identity).recipient(), identity.recipient());
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,80}", digits in "[02-9ac-hj-np-zAC-HJ-NP-Z]{0,80}") {
        for begin in ["", "age1", "age1pq1", "AGE-SECRET-KEY-1", "AGE-SECRET-KEY-PQ-1", "age", "1"] {
            for rest in [&text, &digits] {
                let text = format!("{begin}{rest}");
                prop_assert!(Recipient::parse(&text).is_err());
                prop_assert!(Identity::parse(&text).is_err());
                let _ = (parse_recipients(&text), parse_identities(&text).is_ok());
            }
        }
    }
}
