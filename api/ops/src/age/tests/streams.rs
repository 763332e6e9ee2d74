//! Whole streams, and those that end too early.

use std::io::{self, Read, Write};

use proptest::prelude::*;

use super::{AgeError, DecryptingReader, EncryptingWriter, Identity, decrypt, encrypt, reason};
use crate::age::chunks::{CHUNK_BYTES, SEALED_BYTES};

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at) as u8).collect()
}

/// The lengths at which something changes.
const LENGTHS: [usize; 11] = [
    0,
    1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES - 1,
    2 * CHUNK_BYTES,
    2 * CHUNK_BYTES + 1,
    3 * CHUNK_BYTES,
    5 * CHUNK_BYTES + 17,
    20 * CHUNK_BYTES,
];

#[test]
fn every_length_comes_back() {
    for hybrid in [false, true] {
        for length in LENGTHS {
            let identity = if hybrid { Identity::generate_hybrid() } else { Identity::generate() }.unwrap();
            let data = content(length);
            let file = encrypt(&[identity.recipient()], &data);
            let chunks = length.div_ceil(CHUNK_BYTES).max(1);
            let header = file.len() - 16 - length - 16 * chunks;
            assert!(file[..header].ends_with(b"\n"), "{length}: the payload has another length");
            let (given, refused) = decrypt(identity, &file);
            assert!(refused.is_none() && given == data, "{length}: {refused:?}");
        }
    }
}

#[test]
fn every_recipient_can_read_and_nobody_else() {
    for generate in [Identity::generate, Identity::generate_hybrid] {
        let identities: Vec<Identity> = (0..3).map(|_| generate().unwrap()).collect();
        let recipients: Vec<_> = identities.iter().map(Identity::recipient).collect();
        let file = encrypt(&recipients, b"the dump");
        for identity in identities {
            assert_eq!(decrypt(identity, &file).0, b"the dump");
        }
        for stranger in [Identity::generate().unwrap(), Identity::generate_hybrid().unwrap()] {
            let (given, refused) = decrypt(stranger, &file);
            assert!(given.is_empty() && matches!(refused, Some(AgeError::NoMatch)), "{refused:?}");
        }
    }
}

#[test]
fn any_of_several_identities_reads() {
    let reader = Identity::generate().unwrap();
    let file = encrypt(&[reader.recipient()], b"the dump");
    let several = [Identity::generate_hybrid().unwrap(), Identity::generate().unwrap(), reader];
    assert_eq!(super::decrypt_with(&several, &file).0, b"the dump");
}

#[test]
fn two_files_of_the_same_content_have_nothing_in_common() {
    let recipients = [Identity::generate().unwrap().recipient()];
    let (one, other) = (encrypt(&recipients, &[0; 64]), encrypt(&recipients, &[0; 64]));
    let payload = one.len() - 96;
    assert!(one[payload..].chunks(16).all(|block| !other.windows(16).any(|window| window == block)));
    assert_ne!(one[32..76], other[32..76], "the ephemeral share is used twice");
}

#[test]
fn a_file_that_was_not_finished_is_refused() {
    for length in LENGTHS {
        let identity = Identity::generate().unwrap();
        let mut file = Vec::new();
        let mut writer = EncryptingWriter::new(&[identity.recipient()], &mut file).unwrap();
        writer.write_all(&content(length)).unwrap();
        writer.flush().unwrap();
        drop(writer);
        let (given, refused) = decrypt(identity, &file);
        assert!(matches!(refused, Some(AgeError::PayloadChanged)), "{length}: {refused:?}");
        assert!(given.len() < length.max(1) && content(length).starts_with(&given), "{length}");
    }
}

#[test]
fn bytes_behind_the_last_chunk_are_refused() {
    for length in LENGTHS {
        for more in [1, 15, 16, 17, SEALED_BYTES] {
            let identity = Identity::generate().unwrap();
            let mut file = encrypt(&[identity.recipient()], &content(length));
            file.extend(vec![0; more]);
            let (given, refused) = decrypt(identity, &file);
            assert!(matches!(refused, Some(AgeError::PayloadChanged)), "{length} + {more}: {refused:?}");
            assert!(content(length).starts_with(&given), "{length} + {more}");
        }
    }
}

#[test]
fn chunks_cannot_change_places_or_be_left_out() {
    let identity = Identity::generate().unwrap();
    let file = encrypt(&[identity.recipient()], &content(4 * CHUNK_BYTES));
    let begin = file.len() - 4 * SEALED_BYTES;
    let chunk = |number: usize| &file[begin + number * SEALED_BYTES..][..SEALED_BYTES];
    for order in [&[1, 0, 2, 3][..], &[0, 2, 1, 3], &[0, 1, 3], &[1, 2, 3], &[0, 0, 1, 2, 3], &[0, 1, 2, 3, 3], &[3]] {
        let chunks: Vec<u8> = order.iter().flat_map(|number| chunk(*number)).copied().collect();
        let (_, refused) = decrypt(super::again(&identity), &[&file[..begin], &chunks].concat());
        assert!(matches!(refused, Some(AgeError::PayloadChanged)), "{order:?}");
    }
}

#[test]
fn nothing_of_a_damaged_chunk_is_given_out() {
    let identity = Identity::generate().unwrap();
    let data = content(3 * CHUNK_BYTES);
    let file = encrypt(&[identity.recipient()], &data);
    let begin = file.len() - 3 * SEALED_BYTES;
    for damaged in 0..3 {
        // The last byte of the chunk's tag.
        let mut file = file.clone();
        file[begin + (damaged + 1) * SEALED_BYTES - 1] ^= 1;
        let mut reader = DecryptingReader::new(&[super::again(&identity)], file.as_slice()).unwrap();
        let (mut given, mut piece) = (Vec::new(), [0; 1_000]);
        let error = loop {
            match reader.read(&mut piece) {
                Ok(0) => panic!("a damaged file was read to its end"),
                Ok(read) => given.extend_from_slice(&piece[..read]),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(given == data[..damaged * CHUNK_BYTES], "{damaged}: {} bytes", given.len());
        for _ in 0..3 {
            assert!(matches!(reason(reader.read(&mut piece).unwrap_err()), AgeError::PayloadChanged));
        }
    }
}

#[test]
fn neither_direction_keeps_more_than_a_chunk() {
    let identity = Identity::generate().unwrap();
    let mut written = Vec::new();
    let mut writer = EncryptingWriter::new(&[identity.recipient()], &mut written).unwrap();
    let piece = content(1_000);
    let total = 1_000 * piece.len();
    for _ in 0..1_000 {
        writer.write_all(&piece).unwrap();
    }
    drop(writer);
    assert!(written.len() > total - CHUNK_BYTES, "{} bytes of {total} are out", written.len());

    let file = encrypt(&[identity.recipient()], &content(total));
    let mut input = file.as_slice();
    let mut reader = DecryptingReader::new(&[identity], &mut input).unwrap();
    reader.read_exact(&mut vec![0; total - CHUNK_BYTES]).unwrap();
    drop(reader);
    assert!(input.len() < CHUNK_BYTES, "{} bytes are not read yet", input.len());

    let kept = size_of::<EncryptingWriter<Vec<u8>>>().max(size_of::<DecryptingReader<&[u8]>>());
    assert!(kept < 4_096, "{kept} bytes beside the chunk");
}

#[test]
fn an_endless_input_is_refused_early() {
    let identities = [Identity::generate().unwrap()];
    let begins: [(&[u8], &str); 4] = [
        (b"", "A"),
        (b"age-encryption.org/v1\n", "-> grease\n\n"),
        (b"age-encryption.org/v1\n-> ", "A"),
        (b"age-encryption.org/v1\n-> grease\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"),
    ];
    for (begin, more) in begins {
        let endless = begin.chain(Endless { text: more.as_bytes(), given: 0 });
        let refused = DecryptingReader::new(&identities, endless).err();
        assert!(matches!(refused, Some(AgeError::InvalidHeader(_) | AgeError::NotAge)), "{more}: {refused:?}");
    }
}

/// The same text without an end; panics when too much of it is read.
struct Endless {
    text: &'static [u8],
    given: usize,
}

impl Read for Endless {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        assert!(self.given < 256 * 1_024, "a header has no bound");
        for byte in &mut *output {
            *byte = self.text[self.given % self.text.len()];
            self.given += 1;
        }
        Ok(output.len())
    }
}

#[test]
fn both_directions_can_run_on_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<EncryptingWriter<Vec<u8>>>();
    is_send::<DecryptingReader<&[u8]>>();
    is_send::<Identity>();
}

/// Takes so many bytes, and fails from then on.
struct Full {
    room: usize,
    taken: Vec<u8>,
}

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(self.room - self.taken.len());
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.taken.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_reported_and_its_file_refused() {
    let identity = Identity::generate().unwrap();
    let data = content(3 * CHUNK_BYTES);
    let whole = encrypt(&[identity.recipient()], &data).len();
    for room in [0, 10, 199, 300, SEALED_BYTES, 2 * SEALED_BYTES + 300, whole - 1] {
        let mut disk = Full { room, taken: Vec::new() };
        let failed = match EncryptingWriter::new(&[identity.recipient()], &mut disk) {
            Err(AgeError::Io(error)) => error,
            Err(error) => panic!("{error:?}"),
            Ok(mut writer) => match writer.write_all(&data) {
                Ok(()) => writer.finish().map(|_| ()).unwrap_err(),
                Err(error) => {
                    // Whoever goes on regardless writes nothing more.
                    assert!(matches!(reason(writer.write(b"more").unwrap_err()), AgeError::Ended));
                    assert!(matches!(reason(writer.finish().map(|_| ()).unwrap_err()), AgeError::Ended));
                    error
                }
            },
        };
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull, "{room}");
        assert!(disk.taken.len() <= room);
        assert!(decrypt(super::again(&identity), &disk.taken).1.is_some(), "{room}: half a file was accepted");
    }
}

/// Gives one byte at a time, is interrupted before each, and fails at the end.
struct Broken<'d> {
    data: &'d [u8],
    interrupted: bool,
}

impl Read for Broken<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let Some((first, rest)) = self.data.split_first() else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        output[0] = *first;
        self.data = rest;
        Ok(1)
    }
}

#[test]
fn a_broken_input_is_an_error_and_never_an_end() {
    let identity = Identity::generate().unwrap();
    let file = encrypt(&[identity.recipient()], &content(CHUNK_BYTES + 5));
    for length in (0..300).chain([file.len() - 21, file.len() - 1, file.len()]) {
        let input = Broken { data: &file[..length], interrupted: false };
        let error = match DecryptingReader::new(&[super::again(&identity)], input) {
            Err(AgeError::Io(error)) => error,
            Err(error) => panic!("{length}: {error:?}"),
            Ok(mut reader) => {
                let mut given = Vec::new();
                let error = reader.read_to_end(&mut given).unwrap_err();
                assert!(given.len() <= CHUNK_BYTES, "{length}: a last chunk is one only at the end");
                assert!(matches!(reason(reader.read(&mut [0]).unwrap_err()), AgeError::PayloadChanged));
                error
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back_whatever_the_pieces(
        seed in any::<u64>(),
        length in prop_oneof![0..200_usize, 0..4 * CHUNK_BYTES, prop::sample::select(LENGTHS[..9].to_vec())],
        writes in prop::collection::vec(prop_oneof![0..100_usize, 0..3 * CHUNK_BYTES], 1..20),
        reads in prop::collection::vec(prop_oneof![0..100_usize, 0..3 * CHUNK_BYTES], 1..20),
    ) {
        let mut state = seed;
        let data: Vec<u8> = (0..length).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let identity = Identity::generate().unwrap();
        let mut writer = EncryptingWriter::new(&[identity.recipient()], Vec::new()).unwrap();
        let mut left = data.as_slice();
        for size in writes.iter().cycle().take(1_000) {
            let (piece, rest) = left.split_at((*size).min(left.len()));
            writer.write_all(piece).unwrap();
            left = rest;
        }
        writer.write_all(left).unwrap();
        let file = writer.finish().unwrap();

        let mut reader = DecryptingReader::new(&[identity], file.as_slice()).unwrap();
        let mut given = Vec::new();
        for size in reads.iter().cycle().take(1_000) {
            let mut piece = vec![0; *size];
            let read = reader.read(&mut piece).unwrap();
            given.extend_from_slice(&piece[..read]);
        }
        reader.read_to_end(&mut given).unwrap();
        prop_assert!(given == data);
    }
}
