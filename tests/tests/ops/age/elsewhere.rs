//! The tests that need packages of npm: `scripts/age` installs those and runs these.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use flate2::read::ZlibDecoder;
use fulexo_ops::age::{Identity, Recipient, parse_identities};
use sha2::{Digest, Sha256};

use super::{Folder, LENGTHS, content, decrypt, encrypt, gives, refuses};

const NEEDS: &str = "needs packages of npm: run scripts/age";

/// The program that speaks for the packages: its verb, and where it is.
fn node(verb: &str) -> Command {
    let root = PathBuf::from(std::env::var_os("FULEXO_AGE_NODE").unwrap_or_else(|| panic!("{NEEDS}")));
    let mut node = Command::new("node");
    node.arg(root.join("age.mjs")).arg(verb);
    node
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs packages of npm: run scripts/age"]
fn typescript_and_we_read_each_other() {
    for kind in ["x25519", "hybrid"] {
        let secret = text(gives(node("keygen").arg(kind), b""));
        let theirs = parse_identities(&secret).unwrap();
        let recipient = text(gives(node("recipient").arg(&secret), b""));
        assert_eq!(theirs[0].recipient().to_string(), recipient);
        let ours = if kind == "hybrid" { Identity::generate_hybrid() } else { Identity::generate() }.unwrap();
        assert_eq!(text(gives(node("recipient").arg(ours.expose().as_str()), b"")), ours.recipient().to_string());

        for length in LENGTHS {
            let data = content(length);
            let stranger = Identity::parse(&ours.expose()).unwrap().recipient();
            let file = encrypt(&[stranger, Recipient::parse(&recipient).unwrap()], &data);
            assert!(gives(node("decrypt").arg(&secret), &file) == data, "{kind}, {length}");
            let file = gives(node("encrypt").arg(&recipient).arg(ours.recipient().to_string()), &data);
            for identities in [&theirs, &vec![Identity::parse(&ours.expose()).unwrap()]] {
                let (given, refused) = decrypt(identities, &file);
                assert!(refused.is_none() && given == data, "{kind}, {length}: {refused:?}");
            }
        }
        let mut changed = encrypt(&[ours.recipient()], b"the dump");
        *changed.last_mut().unwrap() ^= 1;
        refuses(node("decrypt").arg(ours.expose().as_str()), &changed);
    }
}

/// Vectors with something behind the last chunk, or nothing behind one that is not the last. The author's program gives such a
/// chunk out and fails afterwards. Here a chunk is the last one exactly if nothing follows, so that nothing of it is given out.
const GIVEN_OUT_LATER: [&str; 8] = [
    "stream_no_final_full",
    "stream_no_final_two_chunks_full",
    "stream_trailing_garbage_long",
    "stream_trailing_garbage_short",
    "stream_two_final_chunks",
    "stream_two_final_chunks_full",
    "stream_two_final_chunks_second",
    "stream_two_final_chunks_short",
];

/// Returns what a vector says of itself, and its file.
fn parts(vector: &[u8]) -> (&str, &[u8]) {
    let end = vector.windows(2).position(|window| window == b"\n\n").unwrap();
    (str::from_utf8(&vector[..end]).unwrap(), &vector[end + 2..])
}

#[test]
#[ignore = "needs packages of npm: run scripts/age"]
fn every_published_vector_has_its_outcome() {
    let folder = Folder::new("vectors");
    gives(node("vectors").arg(&folder.0), b"");
    let mut counted = [0; 5];
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let vector = std::fs::read(&path).unwrap();
        let (head, file) = parts(&vector);
        let values = |key: &str| -> Vec<&str> {
            head.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).collect()
        };
        // Armour and passphrases are not for us.
        if values("armored") == ["yes"] || !values("passphrase").is_empty() {
            continue;
        }
        let mut file = file.to_vec();
        if values("compressed") == ["zlib"] {
            let packed = std::mem::take(&mut file);
            ZlibDecoder::new(packed.as_slice()).read_to_end(&mut file).unwrap();
        }
        let identities: Vec<Identity> = values("identity").into_iter().map(|it| Identity::parse(it).unwrap()).collect();
        // Some have no identity, because nothing can be read of them.
        let identities = if identities.is_empty() { vec![Identity::generate().unwrap()] } else { identities };
        let (given, refused) = decrypt(&identities, &file);

        let expected = values("expect")[0];
        let said = refused.clone().unwrap_or_default();
        let (kind, right) = match expected {
            "success" => (0, refused.is_none()),
            "no match" => (1, said.contains("not encrypted for any")),
            "HMAC failure" => (2, said.contains("header of the encrypted file was changed")),
            // No nonce of 16 bytes: here the payload is what is cut short.
            "header failure" => {
                (3, said.contains("malformed") || said.contains("not a file") || name.ends_with("_nonce"))
            }
            "payload failure" => (4, said.contains("damaged")),
            other => panic!("{name}: an unknown outcome {other}"),
        };
        assert!(right, "{name}: {expected}, and we say {refused:?}");
        counted[kind] += 1;
        if let [payload] = values("payload")[..] {
            let given_out: String = Sha256::digest(&given).iter().map(|byte| format!("{byte:02x}")).collect();
            let fewer = GIVEN_OUT_LATER.contains(&name.as_str()) && given.len() % 65_536 == 0;
            assert!(given_out == payload || fewer, "{name}: {} bytes were given out", given.len());
        } else {
            assert!(given.is_empty(), "{name}");
        }
    }
    println!("success, no match, HMAC, header, payload: {counted:?}");
    assert!(counted.iter().all(|count| *count > 0), "{counted:?}");
    assert!(counted.iter().sum::<usize>() > 80, "{counted:?}");
}
