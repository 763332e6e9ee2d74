//! The encryption of backups on one processor: MB/s of ours, from memory to nowhere, and of the program `age`, from a
//! cached file to nowhere.

use std::fs::File;
use std::io::{Read, Write, sink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use fulexo_ops::age::{DecryptingReader, EncryptingWriter, Identity, Recipient};
use fulexo_ops::clock;
use tokio::runtime::Runtime;

use crate::table;

const ROUNDS: usize = 5;
const BYTES: usize = 512 * 1_024 * 1_024;

pub fn run(_: &Runtime) {
    let folder = std::env::temp_dir().join(format!("fulexo-figure-age-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [clear, sealed, key] = ["clear", "sealed", "key"].map(|name| folder.join(name));
    let data: Vec<u8> = (0..BYTES).map(|at| (at / 249 + at) as u8).collect();
    std::fs::write(&clear, &data).unwrap();
    let identity = Identity::generate().unwrap();
    std::fs::write(&key, identity.key_file(clock::now()).as_bytes()).unwrap();
    let recipients = [identity.recipient()];
    let identities = [identity];
    let file = encrypt(&recipients, &data, Vec::new());
    std::fs::write(&sealed, &file).unwrap();

    let mut figures = [(); 4].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        let [encrypted, decrypted, age_encrypted, age_decrypted] = &mut figures;
        encrypted.push(speed(|| {
            encrypt(&recipients, &data, sink());
        }));
        age_encrypted.push(speed(|| age(&["--recipient", &recipients[0].to_string()], &clear)));
        decrypted.push(speed(|| {
            let mut reader = DecryptingReader::new(&identities, file.as_slice()).unwrap();
            let (mut given, mut piece) = (0, vec![0; 64 * 1_024]);
            while let read @ 1.. = reader.read(&mut piece).unwrap() {
                given += read;
            }
            assert_eq!(given, BYTES);
        }));
        age_decrypted.push(speed(|| age(&["--decrypt", "--identity", key.to_str().unwrap()], &sealed)));
    }
    let [encrypted, decrypted, age_encrypted, age_decrypted] = figures.map(table::median);
    table::head("MB/s of the backups' encryption, one processor", "ours", "age");
    table::line("encryption", encrypted, age_encrypted, None);
    table::line("decryption", decrypted, age_decrypted, None);
    drop(std::fs::remove_dir_all(&folder));
}

fn encrypt<W: Write>(recipients: &[Recipient], data: &[u8], output: W) -> W {
    let mut writer = EncryptingWriter::new(recipients, output).unwrap();
    for piece in data.chunks(8 * 1_024) {
        writer.write_all(piece).unwrap();
    }
    writer.finish().unwrap()
}

fn age(arguments: &[&str], input: &Path) {
    let ended = Command::new("taskset")
        .args(["--cpu-list", "0", "age"])
        .args(arguments)
        .arg(input)
        .stdout(Stdio::from(File::create("/dev/null").unwrap()))
        .status()
        .unwrap();
    assert!(ended.success());
}

fn speed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    BYTES as f64 / 1e6 / began.elapsed().as_secs_f64()
}
