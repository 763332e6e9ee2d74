//! Encrypted backups, judged by the programs of others: Debian's `age` here, and by `scripts/age` the implementation of the
//! format's author in TypeScript, which also knows hybrid keys, and the published vectors.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use fulexo_ops::age::{
    AgeError, DecryptingReader, EncryptingWriter, Identity, Recipient, parse_identities, parse_recipients,
};

mod elsewhere;

/// Around the borders of a chunk of 64 KiB, and several of them.
const LENGTHS: [usize; 8] = [0, 1, 65_535, 65_536, 65_537, 131_072, 262_144, 1_000_000];

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 249 + at) as u8).collect()
}

fn encrypt(recipients: &[Recipient], data: &[u8]) -> Vec<u8> {
    let mut writer = EncryptingWriter::new(recipients, Vec::new()).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Returns what is given out before the end or the refusal, and whether it was refused.
fn decrypt(identities: &[Identity], file: &[u8]) -> (Vec<u8>, Option<String>) {
    let mut given = Vec::new();
    let refused = match DecryptingReader::new(identities, file) {
        Ok(mut reader) => reader.read_to_end(&mut given).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    (given, refused)
}

/// Runs a program that reads all of its input, and returns its output.
fn run(program: &mut Command, input: &[u8]) -> Output {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap_or_else(|error| panic!("{program:?}: {error}: run `make setup`"));
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // One that refuses its input does not read all of it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn gives(program: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(program, input);
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn refuses(program: &mut Command, input: &[u8]) {
    let output = run(program, input);
    assert!(!output.status.success(), "{program:?} accepts what it must not");
}

/// A directory of its own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fulexo-age-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn opens_with(identity: &Path) -> Command {
    let mut age = Command::new("age");
    age.arg("--decrypt").arg("--identity").arg(identity);
    age
}

#[test]
fn age_reads_what_is_encrypted_here() {
    let folder = Folder::new("reads");
    let identity = Identity::generate().unwrap();
    let file = folder.file("identity", identity.key_file(fulexo_ops::clock::now()).as_bytes());
    let strangers = [Identity::generate().unwrap().recipient(), Identity::generate().unwrap().recipient()];
    for length in LENGTHS {
        let data = content(length);
        let alone = encrypt(&[identity.recipient()], &data);
        assert!(gives(&mut opens_with(&file), &alone) == data, "{length}");
        let among = encrypt(&[strangers[0].clone(), identity.recipient(), strangers[1].clone()], &data);
        assert!(gives(&mut opens_with(&file), &among) == data, "{length}, among strangers");
    }
    refuses(&mut opens_with(&file), &encrypt(&strangers, b"not for this one"));
}

#[test]
fn what_age_encrypts_is_read_here() {
    let folder = Folder::new("read");
    let keys = String::from_utf8(gives(&mut Command::new("age-keygen"), b"")).unwrap();
    let identities = parse_identities(&keys).unwrap();
    let path = folder.file("identity", &keys);
    let recipient = String::from_utf8(gives(Command::new("age-keygen").arg("-y").arg(&path), b"")).unwrap();
    assert_eq!(parse_recipients(&recipient).unwrap(), [identities[0].recipient()]);

    let stranger = Identity::generate().unwrap().recipient();
    let recipients = folder.file("recipients", format!("# the safe\n{stranger}\n\n{recipient}"));
    for length in LENGTHS {
        let data = content(length);
        let alone = gives(Command::new("age").args(["--recipient", recipient.trim()]), &data);
        let (given, refused) = decrypt(&identities, &alone);
        assert!(refused.is_none() && given == data, "{length}: {refused:?}");
        let among = gives(Command::new("age").arg("--recipients-file").arg(&recipients), &data);
        let (given, refused) = decrypt(&identities, &among);
        assert!(refused.is_none() && given == data, "{length}, among strangers: {refused:?}");
    }
}

#[test]
fn age_and_we_read_each_others_keys() {
    let folder = Folder::new("keys");
    for _ in 0..20 {
        let identity = Identity::generate().unwrap();
        let path = folder.file("identity", identity.key_file(fulexo_ops::clock::now()).as_bytes());
        let recipient = String::from_utf8(gives(Command::new("age-keygen").arg("-y").arg(&path), b"")).unwrap();
        assert_eq!(recipient.trim(), identity.recipient().to_string());
    }
}

#[test]
fn age_refuses_a_backup_that_was_not_finished_or_was_changed() {
    let folder = Folder::new("refuses");
    let identity = Identity::generate().unwrap();
    let path = folder.file("identity", identity.key_file(fulexo_ops::clock::now()).as_bytes());
    for length in [0, 10, 65_536, 200_000] {
        let mut unfinished = Vec::new();
        let mut writer = EncryptingWriter::new(&[identity.recipient()], &mut unfinished).unwrap();
        writer.write_all(&content(length)).unwrap();
        drop(writer);
        refuses(&mut opens_with(&path), &unfinished);

        let mut changed = encrypt(&[identity.recipient()], &content(length));
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        refuses(&mut opens_with(&path), &changed);
        assert!(decrypt(&parse_identities(&identity.expose()).unwrap(), &changed).1.is_some());
    }
}

#[test]
fn a_passphrase_is_not_for_us() {
    // age itself reads a passphrase from a terminal only: the stanza is enough.
    let file = b"age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 10\n\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
    let refused = DecryptingReader::new(&[Identity::generate().unwrap()], file.as_slice()).err();
    assert!(matches!(refused, Some(AgeError::NoMatch)), "{refused:?}");
}
