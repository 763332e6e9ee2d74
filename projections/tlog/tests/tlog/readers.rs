//! Readers of what others send: one spelling of each thing, bounds, and no panic whatever comes.

use fulexo_tlog::bundle::{self, BundleError, entries};
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::key::{KeyKind, SignerKey, VerifierKey};
use fulexo_tlog::note::{KeyName, Note};
use fulexo_tlog::policy::{TrustPolicy, TrustPolicyError, TrustPolicyFault};
use fulexo_tlog::submission::{ExtensionProof, Submission};
use fulexo_tlog::tile::{Tile, TileKind};
use proptest::prelude::*;

fn key(name: &str, kind: KeyKind, seed: u8) -> SignerKey {
    SignerKey::from_seed(KeyName::parse(name).unwrap(), kind, &[seed; 32]).unwrap()
}

fn note() -> Note {
    let (log, witness) = (key("example.com/log", KeyKind::Ed25519, 1), key("w", KeyKind::Ed25519Cosignature, 2));
    let root = TreeHash::of_node(&TreeHash::of_leaf(b"zero"), &TreeHash::of_leaf(b"one"));
    let checkpoint = Checkpoint { origin: log.verifier().name().clone(), size: 2, root };
    let mut note = Note::new(checkpoint.to_string(), log.sign(&checkpoint, 1).unwrap());
    note.add(witness.sign(&checkpoint, 1_800_000_000).unwrap());
    note
}

fn entry_proof() -> EntryProof {
    let hashes = vec![TreeHash::of_leaf(b"one")];
    EntryProof { extra: Some(b"beside".to_vec()), index: 0, hashes, checkpoint: note() }
}

#[test]
fn tile_paths_have_one_spelling() {
    let hashes = |level, index, width| Tile { kind: TileKind::Hashes(level), index, width };
    for (path, tile) in [
        ("tile/0/000", hashes(0, 0, 256)),
        ("tile/0/x001/x234/067", hashes(0, 1_234_067, 256)),
        ("tile/7/001.p/255", hashes(7, 1, 255)),
        ("tile/63/999.p/1", hashes(63, 999, 1)),
        ("tile/entries/x001/000", Tile { kind: TileKind::Entries, index: 1_000, width: 256 }),
    ] {
        assert_eq!((Tile::parse(path), tile.to_string()), (Some(tile), path.to_owned()));
    }
    for path in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/256/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/x000/000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x01/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/1/",
        "tile/0/000/",
        "tile/0//000",
        "/tile/0/000",
        "tile/0/0\u{661}0",
        "tile/data/000",
        "tile/Entries/000",
        "tile/0/000.P/1",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/x099/x999/x999/x999/x999/999",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/x000/000",
    ] {
        assert_eq!(Tile::parse(path), None, "{path}");
    }
}

#[test]
fn a_bundle_is_as_many_entries_as_its_width_says_and_nothing_else() {
    let mut bundle = Vec::new();
    for entry in [&b"a"[..], b"", &[7; 65_535]] {
        bundle::push(&mut bundle, entry).unwrap();
    }
    assert_eq!(bundle::push(&mut bundle, &[0; 65_536]), None);
    assert_eq!(entries(&bundle, 3).unwrap(), [&b"a"[..], b"", &[7; 65_535]]);
    for width in [0, 2, 4, 256] {
        assert_eq!(entries(&bundle, width), Err(BundleError::WrongCount), "{width}");
    }
    for length in 0..bundle.len() {
        assert!(entries(&bundle[..length], 3).is_err(), "{length}");
    }
    bundle.push(0);
    assert_eq!(entries(&bundle, 3), Err(BundleError::Truncated));
}

#[test]
fn a_proof_file_shows_its_entry_and_no_other() {
    let text = entry_proof().to_string();
    let proof = EntryProof::parse(text.as_bytes()).unwrap();
    assert_eq!((&proof, proof.to_string()), (&entry_proof(), text.clone()));
    assert_eq!(proof.verify(b"zero").unwrap().size, 2);
    assert!(proof.verify(b"one").is_err());
    assert!(EntryProof { index: 1, ..proof }.verify(b"zero").is_err());
    for (from, to) in [
        ("@v1", "@v2"),
        ("extra ", "Extra "),
        ("extra YmVzaWRl", "extra YmVzaWR"),
        ("index 0", "index 00"),
        ("index 0", "index +0"),
        ("index 0\n", ""),
        ("index 0", "index 0\nAA=="),
    ] {
        assert!(EntryProof::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{from:?} to {to:?}");
    }
}

#[test]
fn a_proof_file_has_bounds() {
    let with_extra = |length| EntryProof { extra: Some(vec![0; length]), ..entry_proof() }.to_string();
    assert!(EntryProof::parse(with_extra(128 * 1_024).as_bytes()).is_ok());
    assert!(EntryProof::parse(with_extra(128 * 1_024 + 1).as_bytes()).is_err());
    assert!(EntryProof::parse(with_extra(1_000_000).as_bytes()).is_err());
}

#[test]
fn a_submission_has_an_old_size_a_proof_of_at_most_63_hashes_and_a_note() {
    let hash = TreeHash::of_leaf(b"");
    let of = |count: usize| {
        Submission { extension: ExtensionProof { old_size: 5, hashes: vec![hash; count] }, checkpoint: note() }
            .to_string()
    };
    for count in [0, 1, 63] {
        assert_eq!(Submission::parse(of(count).as_bytes()).unwrap().to_string(), of(count));
    }
    assert_eq!(Submission::parse(of(64).as_bytes()), None);
    for (from, to) in
        [("old 5", "old 05"), ("old 5", "old  5"), ("old 5", "size 5"), ("old 5", "old 9223372036854775808")]
    {
        assert_eq!(Submission::parse(of(1).replace(from, to).as_bytes()), None, "{to}");
    }
}

/// A policy with two groups within a third: two of three, and one of two.
fn policy() -> String {
    let witness = |name: &str, seed| {
        let kind = if seed % 2 == 0 { KeyKind::Ed25519Cosignature } else { KeyKind::MlDsa44Cosignature };
        format!("witness {name}\t{} https://{name}.example/\n", key(name, kind, seed).verifier())
    };
    let witnesses: String =
        ["X1", "X2", "X3", "Y1", "Y2"].into_iter().zip(2..).map(|(name, seed)| witness(name, seed)).collect();
    let log = key("example.com/log", KeyKind::Ed25519, 1);
    format!(
        "# a comment\n\nlog {}\n{witnesses}group X 2 X1 X2 X3\n  group Y any Y1 Y2  \ngroup both all X Y\nquorum both\n",
        log.verifier()
    )
}

#[test]
fn a_policy_counts_witnesses_by_its_groups() {
    let policy = TrustPolicy::parse(policy().as_bytes()).unwrap();
    assert_eq!((policy.logs.len(), policy.witnesses.len()), (1, 5));
    for cosigned in 0_u32..32 {
        let has = |place: usize| cosigned >> place & 1 == 1;
        let expected = (cosigned & 0b111).count_ones() >= 2 && cosigned & 0b11000 != 0;
        assert_eq!(policy.is_satisfied(has), expected, "{cosigned:05b}");
    }
    assert!(TrustPolicy::parse(b"quorum none").unwrap().is_satisfied(|_| false));
}

#[test]
fn a_fault_of_a_policy_is_named_with_its_line() {
    let good = policy();
    let line = good.lines().find(|line| line.starts_with("witness X1")).unwrap().to_owned();
    let log = good.lines().find(|line| line.starts_with("log")).unwrap().to_owned();
    let last = good.lines().count();
    for (from, to, line, fault) in [
        ("quorum both", "quorum nobody", last, TrustPolicyFault::UnknownName),
        ("quorum both", "", last, TrustPolicyFault::NoQuorum),
        ("quorum both", "quorum both\nquorum X", last + 1, TrustPolicyFault::SecondQuorum),
        ("quorum both", "quorum", last, TrustPolicyFault::UnknownLine),
        ("group X 2", "group X 4", 9, TrustPolicyFault::BadThreshold),
        ("group X 2", "group X 0", 9, TrustPolicyFault::BadThreshold),
        ("group X 2", "group X 02", 9, TrustPolicyFault::BadThreshold),
        ("group X 2 X1 X2 X3", "group X 2", 9, TrustPolicyFault::BadThreshold),
        ("group Y any Y1", "group Y any X1", 10, TrustPolicyFault::MemberTwice),
        ("group Y any Y1", "group Y any Y1 Y1", 10, TrustPolicyFault::MemberTwice),
        ("group Y any", "group X any", 10, TrustPolicyFault::DuplicateName),
        ("group Y any", "group none any", 10, TrustPolicyFault::DuplicateName),
        ("group Y any Y1", "group Y any Y", 10, TrustPolicyFault::UnknownName),
        ("group both all X Y", "group both all none Y", 11, TrustPolicyFault::UnknownName),
        ("group both all", "\u{1}group both all", 11, TrustPolicyFault::NotText),
        (line.as_str(), &line.replace("X1", "X2"), 4, TrustPolicyFault::BadKey),
        (line.as_str(), &format!("{line}\n{}", line.replacen("X1", "Z", 1)), 5, TrustPolicyFault::DuplicateKey),
        (line.as_str(), &log.replace("log ", "witness X1 "), 4, TrustPolicyFault::BadKey),
        (log.as_str(), &format!("{log}\n{log}"), 4, TrustPolicyFault::DuplicateKey),
    ] {
        let policy = good.replacen(from, to, 1);
        assert_eq!(TrustPolicy::parse(policy.as_bytes()), Err(TrustPolicyError { line, fault }), "{from} to {to}");
    }
    assert_eq!(TrustPolicy::parse(b"log \xff").unwrap_err().fault, TrustPolicyFault::NotText);
    assert_eq!(TrustPolicy::parse(&vec![b'#'; 2_000_000]).unwrap_err().fault, TrustPolicyFault::TooLong);
    let many: String = (0..300_u32)
        .map(|number| {
            format!("group g{number} any {}\n", if number == 0 { "X1".to_owned() } else { format!("g{}", number - 1) })
        })
        .collect();
    let many = format!("{line}\n{many}quorum g299\n");
    assert_eq!(TrustPolicy::parse(many.as_bytes()).unwrap_err().fault, TrustPolicyFault::TooLong);
}

/// Texts that are nearly what a reader expects: a good one with a few bytes changed, removed, doubled or exchanged.
fn nearly(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = good.len();
    let change = (
        0..length,
        prop_oneof![Just(0_u8), Just(1), Just(2), Just(3)],
        prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b'0'), Just(b'+'), Just(b'x'), Just(b'/')],
    );
    prop::collection::vec(change, 0..4).prop_map(move |changes| {
        let mut bytes = good.clone();
        for (at, kind, byte) in changes {
            let at = at.min(bytes.len().saturating_sub(1));
            match kind {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => {
                    let tail = bytes.split_off(at);
                    bytes.extend_from_slice(&tail[..tail.len().min(40)]);
                    bytes.extend_from_slice(&tail);
                }
            }
        }
        bytes
    })
}

/// The number of inputs of each kind: more in `make check`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(1_000, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_as_a_path_is_printed_as_it_was(path in "(tile/)?(entries|[0-9]{1,2})/(x[0-9]{3}/){0,7}[0-9]{1,4}(\\.p/[0-9]{1,3})?") {
        if let Some(tile) = Tile::parse(&path) {
            prop_assert_eq!(tile.to_string(), path);
        }
    }

    #[test]
    fn every_tile_is_read_as_it_is_printed(level in 0..64_u8, index in 0..=(i64::MAX as u64 / 256), width in 1..=256_u16, is_entries: bool) {
        let kind = if is_entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let tile = Tile { kind, index, width };
        prop_assert_eq!(Tile::parse(&tile.to_string()), Some(tile));
        let _ = tile.exists_at(i64::MAX as u64);
    }

    #[test]
    fn what_is_read_as_a_note_is_printed_as_it_was(bytes in nearly(note().to_string().into_bytes())) {
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), bytes.clone());
            if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
                prop_assert_eq!(checkpoint.to_string(), note.text());
            }
        }
    }

    #[test]
    fn what_is_read_as_a_proof_is_printed_as_it_was(bytes in nearly(entry_proof().to_string().into_bytes())) {
        if let Ok(proof) = EntryProof::parse(&bytes) {
            prop_assert_eq!(proof.to_string().into_bytes(), bytes.clone());
        }
    }

    #[test]
    fn what_is_read_as_a_submission_is_printed_as_it_was(bytes in nearly(Submission { extension: ExtensionProof { old_size: 1, hashes: vec![TreeHash::of_leaf(b"")] }, checkpoint: note() }.to_string().into_bytes())) {
        if let Some(submission) = Submission::parse(&bytes) {
            prop_assert_eq!(submission.to_string().into_bytes(), bytes.clone());
        }
    }

    #[test]
    fn what_is_read_as_a_key_is_printed_as_it_was(bytes in nearly(key("example.com/log", KeyKind::Ed25519, 1).verifier().to_string().into_bytes())) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(key) = VerifierKey::parse(&text) {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn no_policy_makes_the_reader_panic(bytes in nearly(policy().into_bytes())) {
        if let Ok(policy) = TrustPolicy::parse(&bytes) {
            let _ = policy.is_satisfied(|place| place % 2 == 0);
        }
    }

    #[test]
    fn no_bundle_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000), width in 0..=256_u16) {
        if let Ok(read) = entries(&bytes, width) {
            let mut again = Vec::new();
            read.iter().for_each(|entry| bundle::push(&mut again, entry).unwrap());
            prop_assert_eq!(again, bytes);
        }
    }
}
