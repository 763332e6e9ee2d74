//! Files that were changed or cut: every one of them is refused.

use proptest::prelude::*;

use super::{AgeError, DecryptingReader, Identity, again, decrypt, encrypt};

const CONTENT: &[u8] = b"pg_dump -Fc";

#[test]
fn every_flipped_bit_of_an_x25519_file_is_noticed() {
    let identity = Identity::generate().unwrap();
    let file = encrypt(&[identity.recipient()], CONTENT);
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            let (given, refused) = decrypt(again(&identity), &changed);
            assert!(refused.is_some() && given.is_empty(), "bit {bit} of byte {at}");
        }
    }
    assert_eq!(decrypt(identity, &file).0, CONTENT);
}

#[test]
fn every_changed_byte_of_a_hybrid_file_is_noticed() {
    let identity = [Identity::generate_hybrid().unwrap()];
    let file = encrypt(&[identity[0].recipient()], CONTENT);
    for at in 0..file.len() {
        let mut changed = file.clone();
        // Another letter where there are letters, so that base64 stays base64.
        changed[at] = if changed[at].is_ascii_alphabetic() { changed[at] ^ 0x20 } else { changed[at] ^ 1 };
        let (given, refused) = super::decrypt_with(&identity, &changed);
        assert!(refused.is_some() && given.is_empty(), "byte {at}");
    }
    assert_eq!(super::decrypt_with(&identity, &file).0, CONTENT);
}

#[test]
fn every_cut_is_noticed() {
    for generate in [Identity::generate, Identity::generate_hybrid] {
        let identity = [generate().unwrap()];
        let file = encrypt(&[identity[0].recipient()], CONTENT);
        for length in 0..file.len() {
            let (given, refused) = super::decrypt_with(&identity, &file[..length]);
            assert!(refused.is_some() && given.is_empty(), "cut after {length} bytes");
        }
    }
}

#[test]
fn a_recipient_added_by_somebody_else_is_noticed() {
    let (owner, intruder) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let file = encrypt(&[owner.recipient()], CONTENT);
    let other = encrypt(&[intruder.recipient()], CONTENT);
    let stanza = &other[22..other.windows(4).position(|window| window == b"--- ").unwrap()];
    for at in [22, file.windows(4).position(|window| window == b"--- ").unwrap()] {
        let mixed = [&file[..at], stanza, &file[at..]].concat();
        assert!(matches!(decrypt(again(&owner), &mixed).1, Some(AgeError::HeaderChanged)));
        assert!(matches!(decrypt(again(&intruder), &mixed).1, Some(AgeError::HeaderChanged)));
    }
}

#[test]
fn the_header_of_one_file_does_not_open_the_payload_of_another() {
    let identity = Identity::generate().unwrap();
    let (one, other) = (encrypt(&[identity.recipient()], CONTENT), encrypt(&[identity.recipient()], CONTENT));
    let payload = one.len() - 16 - CONTENT.len() - 16;
    let (given, refused) = decrypt(identity, &[&one[..payload], &other[payload..]].concat());
    assert!(given.is_empty() && matches!(refused, Some(AgeError::PayloadChanged)), "{refused:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        printable in prop::collection::vec(b' '..=b'~', 0..200),
        at in 0..300_usize,
    ) {
        let identity = [Identity::generate().unwrap()];
        let file = encrypt(&[identity[0].recipient()], CONTENT);
        let (begin, end) = file.split_at(at.min(file.len()));
        for bytes in [&bytes, &printable] {
            prop_assert!(super::decrypt_with(&identity, bytes).1.is_some());
            prop_assert!(super::decrypt_with(&identity, &[begin, bytes].concat()).1.is_some() || bytes == end);
            let inserted = super::decrypt_with(&identity, &[begin, bytes, end].concat());
            prop_assert!(inserted.1.is_some() || bytes.is_empty());
            let _ = DecryptingReader::new(&identity, [b"age-encryption.org/v1\n-> ", bytes.as_slice()].concat().as_slice());
        }
    }
}
