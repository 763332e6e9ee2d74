//! Headers that somebody who knows the file key wrote in another way: the authentication code of each is right, so that
//! only the rule of the format refuses it.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use proptest::prelude::*;

use super::{AgeError, Identity, decrypt_with};
use crate::age::chunks::ChunkCipher;
use crate::age::file_key::FileKey;
use crate::age::recipient::MOST_RECIPIENTS;

const VERSION: &str = "age-encryption.org/v1\n";
const CONTENT: &[u8] = b"pg_dump -Fc";

/// Writes headers for one identity of each kind.
struct Forger {
    identities: [Identity; 2],
    file_key: FileKey,
    x25519: String,
    hybrid: String,
}

impl Forger {
    fn new() -> Self {
        let identities = [Identity::generate().unwrap(), Identity::generate_hybrid().unwrap()];
        let file_key = FileKey::generate().unwrap();
        let [x25519, hybrid] = [0, 1].map(|it: usize| identities[it].recipient().wrap(&file_key).unwrap().text());
        Self { identities, file_key, x25519, hybrid }
    }

    /// A file whose header begins with this text. `finish` makes the last line of the right code.
    fn file(&self, text: &[u8], finish: impl Fn(&str) -> String) -> Vec<u8> {
        let text = [text, b"---"].concat();
        let code = STANDARD_NO_PAD.encode(hmac::sign(&self.file_key.header_key().unwrap(), &text));
        let mut chunk = CONTENT.to_vec();
        ChunkCipher::new(self.file_key.payload_key(&[7; 16]).unwrap()).seal(&mut chunk, true).unwrap();
        [text.as_slice(), finish(&code).as_bytes(), &[7; 16], &chunk].concat()
    }

    fn read(&self, text: &[u8]) -> (Vec<u8>, Option<AgeError>) {
        decrypt_with(&self.identities, &self.file(text, line))
    }

    fn accepts(&self, name: &str, stanzas: &str) {
        let (given, refused) = self.read(format!("{VERSION}{stanzas}").as_bytes());
        assert!(refused.is_none() && given == CONTENT, "{name}: {refused:?}");
    }

    fn refuses(&self, name: &str, stanzas: &str) {
        let (given, refused) = self.read(format!("{VERSION}{stanzas}").as_bytes());
        assert!(given.is_empty() && matches!(refused, Some(AgeError::InvalidHeader(_))), "{name}: {refused:?}");
    }
}

fn line(code: &str) -> String {
    format!(" {code}\n")
}

/// The points of low order, with the texts that RFC 7748 takes for the same points.
pub fn low_order_points() -> Vec<[u8; 32]> {
    let digits = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let points = digits.map(|digits| {
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    });
    let masked = points.map(|mut point: [u8; 32]| {
        point[31] |= 0x80;
        point
    });
    [points, masked].concat()
}

/// The same base64 with other bits behind the last byte.
fn with_bits_behind(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (begin, last) = text.split_at(text.len() - 1);
    let value = DIGITS.iter().position(|digit| *digit == last.as_bytes()[0]).unwrap();
    format!("{begin}{}", char::from(DIGITS[value | 1]))
}

#[test]
fn headers_of_others_are_read() {
    let forger = Forger::new();
    let (own, hybrid) = (&forger.x25519, &forger.hybrid);
    forger.accepts("as it is", own);
    forger.accepts("as it is, hybrid", hybrid);
    // The specification advises against it, and others may do it.
    forger.accepts("both kinds", &format!("{hybrid}{own}"));
    forger.accepts("an unknown type without a body", &format!("-> grease\n\n{own}"));
    forger.accepts("all characters", &format!("-> {}\n\n{own}", ('!'..='~').collect::<String>()));
    forger.accepts("a body that fills its lines", &format!("-> x y\n{}\n\n{own}", "A".repeat(64)));
    forger.accepts("a long body", &format!("-> x\n{}AA\n{own}", format!("{}\n", "A".repeat(64)).repeat(300)));
    forger.accepts("another case", &format!("-> x25519 AA\n\n{own}"));
    forger.accepts("a stranger first", &format!("{}{own}", Forger::new().x25519));
    let most = "-> grease\n\n".repeat(MOST_RECIPIENTS - 1);
    forger.accepts("the most stanzas", &format!("{most}{own}"));
}

#[test]
fn malformed_headers_are_refused_by_rule() {
    let forger = Forger::new();
    let own = &forger.x25519;
    let refuses = |name: &str, stanzas: &str| forger.refuses(name, stanzas);

    refuses("no stanza", "");
    refuses("carriage returns", &own.replace('\n', "\r\n"));
    refuses("an empty line", &format!("\n{own}"));
    refuses("no space behind the arrow", &own.replacen("-> ", "->", 1));
    refuses("two spaces behind the arrow", &own.replacen("-> ", "->  ", 1));
    refuses("another arrow", &format!("{own}-- grease\n\n"));
    refuses("no argument", &format!("->\n\n{own}"));
    refuses("an empty argument", &format!("-> \n\n{own}"));
    refuses("a space at the end of a line", &own.replacen('\n', " \n", 1));
    refuses("a tab", &format!("-> a\tb\n\n{own}"));
    refuses("a control character", &format!("-> a\u{7f}\n\n{own}"));
    refuses("a letter that is not ASCII", &format!("-> größe\n\n{own}"));
    refuses("a body without its short line", &format!("-> grease\n{own}"));
    refuses("a full body without its empty line", &format!("-> x\n{}\n{own}", "A".repeat(64)));
    refuses("a line of 65 characters", &format!("-> x\n{}\n\n{own}", "A".repeat(65)));
    refuses("a line of 68 characters", &format!("-> x\n{}\n\n{own}", "A".repeat(68)));
    refuses("two short lines", &format!("-> x\nAAAA\nAAAA\n{own}"));
    refuses("a padded body", &format!("-> x\nAA==\n{own}"));
    refuses("a body of one character", &format!("-> x\nA\n{own}"));
    refuses("bits behind a body", &format!("-> x\nAB\n{own}"));
    refuses("characters of the other base64", &format!("-> x\n-_-_\n{own}"));
    refuses("too many stanzas", &format!("{}{own}", "-> grease\n\n".repeat(MOST_RECIPIENTS)));
    refuses("too many bytes", &format!("-> x {}\n\n{own}", "A".repeat(128 * 1024)));
    refuses("too many bytes in lines", &format!("-> x\n{}\n{own}", format!("{}\n", "A".repeat(64)).repeat(2_016)));
    refuses("a passphrase beside a recipient", &format!("{own}-> scrypt AAAAAAAAAAAAAAAAAAAAAA 10\n\n"));
    let passphrase = "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 10\n\n";
    refuses("two passphrases", &passphrase.repeat(2));

    for (stanza, argument_bytes) in [(own, 32), (&forger.hybrid, 1120)] {
        let (head, body) = stanza.trim_end().split_once('\n').unwrap();
        let (begin, argument) = head.rsplit_once(' ').unwrap();
        // A sound stanza of the same type follows: the fault alone must refuse the file.
        let again = |argument: &str, body: &str| format!("{begin} {argument}\n{body}\n{stanza}");
        let short = STANDARD_NO_PAD.encode(vec![9; argument_bytes - 1]);
        let long = STANDARD_NO_PAD.encode(vec![9; argument_bytes + 1]);
        refuses("no argument of the type", &format!("{begin}\n{body}\n{stanza}"));
        refuses("an argument too many", &again(&format!("{argument} x"), body));
        refuses("a short argument", &again(&short, body));
        refuses("a long argument", &again(&long, body));
        refuses("a padded argument", &again(&format!("{argument}="), body));
        refuses("bits behind an argument", &again(&with_bits_behind(argument), body));
        refuses("an empty body", &again(argument, ""));
        refuses("a short body", &again(argument, &STANDARD_NO_PAD.encode([9; 31])));
        refuses("a long body of a key", &again(argument, &STANDARD_NO_PAD.encode([9; 33])));
        refuses("a body of 48 bytes", &again(argument, &format!("{}\n", STANDARD_NO_PAD.encode([9; 48]))));
        refuses("bits behind a body of a key", &again(argument, &with_bits_behind(body)));
        for point in low_order_points() {
            let mut bytes = STANDARD_NO_PAD.decode(argument).unwrap();
            let at = bytes.len() - 32;
            bytes[at..].copy_from_slice(&point);
            refuses("a point of low order", &again(&STANDARD_NO_PAD.encode(bytes), body));
        }
    }
}

#[test]
fn malformed_last_lines_are_refused_by_rule() {
    let forger = Forger::new();
    let text = format!("{VERSION}{}", forger.x25519);
    let refuses = |name: &str, finish: &dyn Fn(&str) -> String| {
        let (given, refused) = decrypt_with(&forger.identities, &forger.file(text.as_bytes(), finish));
        assert!(given.is_empty() && matches!(refused, Some(AgeError::InvalidHeader(_))), "{name}: {refused:?}");
    };
    refuses("no space", &|code| format!("{code}\n"));
    refuses("two spaces", &|code| format!("  {code}\n"));
    refuses("a space at the end", &|code| format!(" {code} \n"));
    refuses("a carriage return", &|code| format!(" {code}\r\n"));
    refuses("padding", &|code| format!(" {code}=\n"));
    refuses("bits behind the code", &|code| format!(" {}\n", with_bits_behind(code)));
    refuses("a short code", &|code| format!(" {}\n", &code[..42]));
    refuses("a long code", &|code| format!(" {code}AA\n"));
    refuses("no code", &|_| "\n".to_owned());
    refuses("no code, but a space", &|_| " \n".to_owned());
    // And one of the right form.
    let other = forger.file(text.as_bytes(), |_| line(&STANDARD_NO_PAD.encode([9; 32])));
    assert!(matches!(decrypt_with(&forger.identities, &other).1, Some(AgeError::HeaderChanged)));
}

#[test]
fn other_formats_and_versions_are_refused() {
    let forger = Forger::new();
    for version in [
        "",
        "age-encryption.org/v2\n",
        "age-encryption.org/v1 \n",
        "age-encryption.org/v1\r\n",
        "Age-encryption.org/v1\n",
        "\u{feff}age-encryption.org/v1\n",
        "-----BEGIN AGE ENCRYPTED FILE-----\n",
        "PGDMP",
        &"A".repeat(200_000),
    ] {
        let (given, refused) = forger.read(format!("{version}{}", forger.x25519).as_bytes());
        assert!(given.is_empty() && matches!(refused, Some(AgeError::NotAge)), "{version:.30}: {refused:?}");
    }
}

#[test]
fn a_payload_is_empty_only_as_a_whole() {
    let identity = Identity::generate().unwrap();
    let file_key = FileKey::generate().unwrap();
    for chunks in [1, 2, 3] {
        let recipients = [identity.recipient()];
        let mut file = crate::age::header::write(&recipients, &file_key).unwrap();
        file.extend_from_slice(&[7; 16]);
        let mut cipher = ChunkCipher::new(file_key.payload_key(&[7; 16]).unwrap());
        for _ in 1..chunks {
            let mut chunk = vec![1; 64 * 1024];
            cipher.seal(&mut chunk, false).unwrap();
            file.extend_from_slice(&chunk);
        }
        let mut empty = Vec::new();
        cipher.seal(&mut empty, true).unwrap();
        file.extend_from_slice(&empty);
        let (given, refused) = decrypt_with(&[super::again(&identity)], &file);
        assert_eq!(given.len(), (chunks - 1) * 64 * 1024);
        assert_eq!(refused.is_none(), chunks == 1, "{chunks} chunks, the last one empty: {refused:?}");
    }
}

/// A line of a header, or something that is nearly one.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("-> grease\n\n".to_owned()),
        Just("-> X25519 ".to_owned()),
        Just("-> mlkem768x25519 ".to_owned()),
        Just("--- ".to_owned()),
        Just("---\n".to_owned()),
        Just("\n".to_owned()),
        "[A-Za-z0-9+/]{0,66}\n",
        "-> [!-~]{1,9}( [!-~]{1,9}){0,3}\n",
        "[ -~]{0,9}\n",
        "\\PC{0,9}\n",
        (0..70_usize).prop_map(|length| format!("{}\n", "A".repeat(length))),
    ]
}

proptest! {
    /// The identity is known to the forger, and so is the code: what is accepted has the right content.
    #[test]
    fn mutated_headers_are_refused_or_read_right(
        before in prop::collection::vec(piece(), 0..5),
        after in prop::collection::vec(piece(), 0..5),
        kept in any::<bool>(),
        cut in 0..130_usize,
    ) {
        let forger = Forger::new();
        let own = if kept { forger.x25519.as_str() } else { &forger.x25519[..cut.min(forger.x25519.len())] };
        let text = format!("{VERSION}{}{own}{}", before.concat(), after.concat());
        let (given, refused) = forger.read(text.as_bytes());
        let sound = if refused.is_none() { given == CONTENT } else { given.is_empty() };
        prop_assert!(sound);
    }
}
