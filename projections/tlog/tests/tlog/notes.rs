//! Keys, notes, checkpoints and cosignatures: the specifications' examples, another implementation, and what is altered.

use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::extension::{self, ExtensionError};
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{KeyKind, SignatureError, SignerKey, VerifiedSignature, VerifierKey, verify};
use fulexo_tlog::note::{KeyName, Note, NoteError, SignatureLine};
use fulexo_tlog::submission::ExtensionProof;
use signed_note::{StandardVerifier, VerifierList};

const KINDS: [KeyKind; 3] = [KeyKind::Ed25519, KeyKind::Ed25519Cosignature, KeyKind::MlDsa44Cosignature];
const NOW: u64 = 1_800_000_000;

fn name(name: &str) -> KeyName {
    KeyName::parse(name).unwrap()
}

fn key(of: &str, kind: KeyKind) -> SignerKey {
    SignerKey::from_seed(name(of), kind, &[7; 32]).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: name("example.com/log"), size: 7, root: TreeHash::of_leaf(b"root") }
}

/// Signs the checkpoint with all of these.
fn signed(keys: &[&SignerKey]) -> Note {
    let checkpoint = checkpoint();
    let mut note = Note::new(checkpoint.to_string(), keys[0].sign(&checkpoint, NOW).unwrap());
    for key in &keys[1..] {
        note.add(key.sign(&checkpoint, NOW).unwrap());
    }
    note
}

#[test]
fn the_example_of_the_specification_is_verified() {
    let vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let note = "This is an example message.\n\n\u{2014} example.com/foo \
                Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let (key, parsed) = (VerifierKey::parse(vkey).unwrap(), Note::parse(note.as_bytes()).unwrap());
    assert_eq!((key.to_string(), parsed.to_string()), (vkey.to_owned(), note.to_owned()));
    assert_eq!(verify(&parsed, std::slice::from_ref(&key)), Ok(vec![VerifiedSignature { key: 0, time: 0 }]));
    let altered = Note::parse(note.replace("example message", "example massage").as_bytes()).unwrap();
    assert_eq!(verify(&altered, std::slice::from_ref(&key)), Err(SignatureError::Wrong));
}

#[test]
fn a_private_key_is_read_as_go_writes_it_and_written_so_that_it_is_read() {
    // The key pair of the documentation of Go's sumdb/note.
    let skey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_eq!(SignerKey::parse(skey).unwrap().verifier().to_string(), vkey);
    for kind in KINDS {
        let text = SignerKey::text(name("example.com/log"), kind, &[9; 32]).unwrap();
        let (read, made) =
            (SignerKey::parse(&text).unwrap(), SignerKey::from_seed(name("example.com/log"), kind, &[9; 32]).unwrap());
        assert_eq!(read.verifier(), made.verifier());
    }
    let altered = [
        skey.replace("PRIVATE", "private"),
        skey.replace("Peter", "Petra"),
        skey.replace("c74f20a3", "c74f20a4"),
        skey.replace("c74f20a3", "C74F20A3"),
        skey.replace("+AYEK", "+AoEK"),
        skey.replace("HKDFz", "HKDF"),
        format!("{skey}\n"),
        format!("{skey}AAAA"),
        vkey.to_owned(),
        String::new(),
        format!("PRIVATE+KEY+{}", "+".repeat(5_000)),
    ];
    for text in altered {
        assert!(SignerKey::parse(&text).is_err(), "{text}");
    }
}

#[test]
fn the_checkpoints_of_the_specifications_are_read_as_they_are_written() {
    let note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
                \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
                \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
    let parsed = Note::parse(note.as_bytes()).unwrap();
    let checkpoint = Checkpoint::parse(parsed.text()).unwrap();
    assert_eq!((checkpoint.size, parsed.signatures().len()), (20_852_163, 2));
    assert_eq!(checkpoint.to_string(), parsed.text());
    assert_eq!(parsed.to_string(), note);
    assert_eq!(verify(&parsed, &[]), Err(SignatureError::Unknown));
}

#[test]
fn signed_note_verifies_our_checkpoint_and_ignores_the_cosignatures() {
    let keys = KINDS.map(|kind| key("example.com/log", kind));
    let note = signed(&keys.each_ref()).to_string();
    let theirs = signed_note::Note::from_bytes(note.as_bytes()).unwrap();
    let verifier = StandardVerifier::new(&keys[0].verifier().to_string()).unwrap();
    let (verified, ignored) = theirs.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((verified.len(), ignored.len()), (1, 2));
    assert_eq!(theirs.text(), checkpoint().to_string().as_bytes());
}

#[test]
fn each_kind_of_signature_is_verified_with_its_time_and_by_no_other_key() {
    let keys = KINDS.map(|kind| key("example.com/log", kind));
    let verifiers = keys.each_ref().map(|key| VerifierKey::parse(&key.verifier().to_string()).unwrap());
    let note = Note::parse(signed(&keys.each_ref()).to_string().as_bytes()).unwrap();
    let expected = [0, NOW, NOW].into_iter().enumerate().map(|(key, time)| VerifiedSignature { key, time }).collect();
    assert_eq!(verify(&note, &verifiers), Ok(expected));
    for (place, verifier) in verifiers.iter().enumerate() {
        let time = [0, NOW, NOW][place];
        assert_eq!(verify(&note, std::slice::from_ref(verifier)), Ok(vec![VerifiedSignature { key: 0, time }]));
    }
    let stranger = SignerKey::from_seed(name("example.com/log"), KeyKind::Ed25519, &[8; 32]).unwrap();
    assert_eq!(verify(&note, std::slice::from_ref(stranger.verifier())), Err(SignatureError::Unknown));
}

#[test]
fn a_flipped_bit_anywhere_in_a_signature_or_the_text_refuses_the_note() {
    for kind in KINDS {
        let key = key("example.com/log", kind);
        let note = signed(&[&key]);
        let line = &note.signatures()[0];
        let step = if line.signature.len() > 100 { 61 } else { 1 };
        for at in (0..line.signature.len()).step_by(step) {
            let mut signature = line.signature.clone();
            signature[at] ^= 1;
            let altered = Note::new(note.text().to_owned(), SignatureLine { signature, ..line.clone() });
            assert_eq!(
                verify(&altered, std::slice::from_ref(key.verifier())),
                Err(SignatureError::Wrong),
                "{kind:?}, byte {at}"
            );
        }
        for length in [1, 8, 63, line.signature.len() - 1] {
            let signature = line.signature[..length].to_vec();
            let altered = Note::new(note.text().to_owned(), SignatureLine { signature, ..line.clone() });
            assert_eq!(
                verify(&altered, std::slice::from_ref(key.verifier())),
                Err(SignatureError::Wrong),
                "{kind:?}, {length}"
            );
        }
        let other = Checkpoint { size: 8, ..checkpoint() }.to_string();
        let altered = Note::new(other, line.clone());
        assert_eq!(verify(&altered, std::slice::from_ref(key.verifier())), Err(SignatureError::Wrong), "{kind:?}");
    }
}

#[test]
fn one_wrong_signature_of_a_known_key_refuses_a_note_that_others_signed() {
    let (log, witness) = (key("example.com/log", KeyKind::Ed25519), key("w", KeyKind::Ed25519Cosignature));
    let mut note = signed(&[&log]);
    let mut line = witness.sign(&checkpoint(), NOW).unwrap();
    *line.signature.last_mut().unwrap() ^= 1;
    note.add(line);
    assert_eq!(verify(&note, std::slice::from_ref(log.verifier())).unwrap().len(), 1);
    assert_eq!(verify(&note, &[log.verifier().clone(), witness.verifier().clone()]), Err(SignatureError::Wrong));
}

#[test]
fn a_cosignature_without_a_time_or_beyond_all_times_is_none() {
    for kind in [KeyKind::Ed25519Cosignature, KeyKind::MlDsa44Cosignature] {
        let key = key("w", kind);
        for time in [0, u64::MAX, 1 << 63] {
            assert!(key.sign(&checkpoint(), time).is_err(), "{kind:?}, {time}");
        }
        assert!(key.sign(&checkpoint(), (1 << 63) - 1).is_ok());
    }
}

#[test]
fn keys_have_one_spelling() {
    let vkey = key("example.com/log", KeyKind::Ed25519).verifier().to_string();
    assert!(VerifierKey::parse(&vkey).is_ok());
    let (name, rest) = vkey.split_once('+').unwrap();
    let (id, public_key) = rest.split_once('+').unwrap();
    for wrong in [
        format!("{name}+{}+{public_key}", id.to_uppercase().replace('0', "A")),
        format!("{name}+0{id}+{public_key}"),
        format!("{name}x+{id}+{public_key}"),
        format!("{name}+{id}+{public_key}="),
        format!("{name}+{id}+{}", public_key.trim_end_matches('=')),
        format!("{name}+{id}+{public_key}\n"),
        format!("+{id}+{public_key}"),
        format!("{name}+{id}"),
        String::new(),
        "+".repeat(5_000),
    ] {
        assert!(VerifierKey::parse(&wrong).is_err() || wrong == vkey, "{wrong}");
    }
}

#[test]
fn a_note_is_plain_text_with_signature_lines_after_the_last_blank_line() {
    let line = signed(&[&key("k", KeyKind::Ed25519)]).signatures()[0].to_string();
    let parse = |note: &str| Note::parse(note.as_bytes());
    assert_eq!(parse(&format!("a\n\nb\n\n{line}")).unwrap().text(), "a\n\nb\n");
    for (note, error) in [
        ("a\n".to_owned(), NoteError::Unsigned),
        (format!("a\n{line}"), NoteError::Unsigned),
        (format!("a\n\n{}", line.trim_end()), NoteError::Unsigned),
        (format!("a\n\n{line}\n"), NoteError::Unsigned),
        (format!("a\n\n{line}x\n"), NoteError::BadSignatureLine),
        (format!("a\n\n{}", line.replace('\u{2014}', "-")), NoteError::BadSignatureLine),
        (format!("a\n\n{}", line.replace(" k ", "  ")), NoteError::BadSignatureLine),
        (format!("a\n\n{}", line.replace(" k ", " k+ ")), NoteError::BadSignatureLine),
        (format!("a\n\n{}", line.replace(" k ", " k\u{2003} ")), NoteError::BadSignatureLine),
        ("a\n\n\u{2014} k AAAAAA==\n".to_owned(), NoteError::BadSignatureLine),
        (format!("a\tb\n\n{line}"), NoteError::NotText),
        (format!("a\r\n\n{line}"), NoteError::NotText),
        (format!("a\n\n{}", line.repeat(65)), NoteError::TooLong),
        (format!("{}\n\n{line}", "a".repeat(300_000)), NoteError::TooLong),
    ] {
        assert_eq!(parse(&note).map(|_| ()), Err(error), "{note:.80}");
    }
    assert_eq!(Note::parse(b"\xff\n\n").map(|_| ()), Err(NoteError::NotText));
    assert!(parse(&format!("a\n\n{}", line.repeat(64))).is_ok());
}

#[test]
fn a_checkpoint_has_three_lines_in_one_spelling() {
    let good = checkpoint().to_string();
    assert_eq!(Checkpoint::parse(&good), Ok(checkpoint()));
    let root = TreeHash::of_leaf(b"root").to_string();
    for wrong in [
        good.trim_end().to_owned(),
        format!("{good}extension\n"),
        format!("{good}\n"),
        format!("\n7\n{root}\n"),
        format!("a b\n7\n{root}\n"),
        format!("a+b\n7\n{root}\n"),
        format!("a\n07\n{root}\n"),
        format!("a\n+7\n{root}\n"),
        format!("a\n\n{root}\n"),
        format!("a\n9223372036854775808\n{root}\n"),
        format!("a\n7\n{}\n", root.trim_end_matches('=')),
        // The last bits of this one stand for nothing.
        "a\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n".to_owned(),
        String::new(),
    ] {
        assert!(Checkpoint::parse(&wrong).is_err(), "{wrong:?}");
    }
    // Its root is judged, not read.
    let (empty, next) = (Checkpoint::parse(&format!("a\n0\n{root}\n")).unwrap(), Checkpoint::parse(&good).unwrap());
    let proof = ExtensionProof { old_size: 0, hashes: Vec::new() };
    assert_eq!(extension::judge(None, &proof, &empty), Err(ExtensionError::Inconsistent));
    let empty = Checkpoint { root: TreeHash::of_empty_tree(), ..empty };
    assert_eq!(extension::judge(None, &proof, &empty), Ok(()));
    assert_eq!(extension::judge(Some(&empty), &proof, &next), Ok(()));
}

#[test]
fn a_text_is_signed_by_an_ed25519_key_alone_and_never_as_a_checkpoint_or_a_cosignature() {
    let signer = key("audit.example/reports", KeyKind::Ed25519);
    let text = "a report\nsha256 00\n";
    let note = Note::new(text.to_owned(), signer.sign_text(text).unwrap());
    let read = Note::parse(note.to_string().as_bytes()).unwrap();
    assert!(verify(&read, &[signer.verifier().clone()]).is_ok());
    for refused in [checkpoint().to_string(), format!("cosignature/v1\ntime 1\n{}", checkpoint()), "no line".to_owned()]
    {
        assert!(signer.sign_text(&refused).is_err(), "{refused}");
    }
    for kind in [KeyKind::Ed25519Cosignature, KeyKind::MlDsa44Cosignature] {
        assert!(key("w", kind).sign_text(text).is_err());
    }
}
