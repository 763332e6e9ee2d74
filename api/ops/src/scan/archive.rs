//! A packed directory, `.tar.gz`, read entry by entry in memory. Nothing is unpacked to a disk: a name can lead nowhere.
//!
//! Knows what `git archive` and GNU tar write (POSIX ustar, pax and GNU's long names).

use std::io::{ErrorKind, Read};

use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;

/// The size of a block of an archive, in bytes.
const BLOCK: usize = 512;
/// The largest archive, unpacked, in bytes.
const ARCHIVE_BOUND: u64 = 256 << 20;
/// The most entries of an archive.
const ENTRIES_BOUND: usize = 100_000;
/// The longest name or pax header, in bytes.
const NAME_BOUND: u64 = 64 << 10;

/// A file in an archive.
#[derive(Debug)]
pub struct ArchivedFile {
    /// The path, relative, of normal parts only.
    pub path: String,
    /// The bytes, or the size of a file that is larger than was asked for.
    pub content: Result<Vec<u8>, u64>,
    /// The time at which it was changed. `git archive` writes the time of the commit.
    pub changed_at: Option<DateTime<Utc>>,
}

/// An archive.
pub struct ArchiveReader<R> {
    stream: R,
    file_bound: u64,
    entries: usize,
}

impl<R: Read> ArchiveReader<std::io::Take<GzDecoder<R>>> {
    /// Begins to read an archive. Files above `file_bound` bytes are skipped.
    pub fn new(packed: R, file_bound: u64) -> Self {
        Self { stream: GzDecoder::new(packed).take(ARCHIVE_BOUND), file_bound, entries: 0 }
    }
}

impl<R: Read> ArchiveReader<R> {
    /// Returns the next regular file, or nothing at the end.
    ///
    /// # Errors
    /// A text for the operator if the archive is damaged, too large, or has a name that leads out of it.
    pub fn next_file(&mut self) -> Result<Option<ArchivedFile>, String> {
        let mut long_name: Option<String> = None;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > ENTRIES_BOUND {
                return Err(format!("has more than {ENTRIES_BOUND} entries"));
            }
            match header.kind {
                b'0' | 0 => {
                    let path = checked(&long_name.take().unwrap_or(header.name))?;
                    let content = if header.size > self.file_bound {
                        self.skip(header.size)?;
                        Err(header.size)
                    } else {
                        Ok(self.content(header.size)?)
                    };
                    return Ok(Some(ArchivedFile { path, content, changed_at: header.changed_at }));
                }
                b'L' => long_name = Some(text(&self.bounded(header.size)?)?),
                b'x' => long_name = pax_path(&self.bounded(header.size)?)?.or(long_name),
                // A header for all entries: git writes the id of the commit.
                b'g' => self.skip(header.size)?,
                // A directory.
                b'5' => {
                    checked(&long_name.take().unwrap_or(header.name))?;
                    self.skip(header.size)?;
                }
                _ => {
                    let path = checked(&long_name.take().unwrap_or(header.name))?;
                    return Err(format!("has a link or a special file: {path}"));
                }
            }
        }
    }

    /// Reads a header, or the end.
    fn header(&mut self) -> Result<Option<EntryHeader>, String> {
        let mut block = [0; BLOCK];
        match self.stream.read(&mut block[..1]) {
            // Without the two blocks of zeros that end an archive it was cut.
            Ok(0) => return Err("ends too early, or is larger than 256 MiB unpacked".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(damaged(&error)),
        }
        self.fill(&mut block[1..])?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        EntryHeader::parse(&block).map(Some)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        self.stream.read_exact(buffer).map_err(|error| damaged(&error))
    }

    fn content(&mut self, size: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(size).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        if read as u64 != size {
            return Err("ends too early, or is larger than 256 MiB unpacked".to_owned());
        }
        self.pad(size)?;
        Ok(bytes)
    }

    fn bounded(&mut self, size: u64) -> Result<Vec<u8>, String> {
        if size > NAME_BOUND {
            return Err("has a name that is too long".to_owned());
        }
        self.content(size)
    }

    fn skip(&mut self, size: u64) -> Result<(), String> {
        let skipped =
            std::io::copy(&mut (&mut self.stream).take(size), &mut std::io::sink()).map_err(|error| damaged(&error))?;
        if skipped != size {
            return Err("ends too early, or is larger than 256 MiB unpacked".to_owned());
        }
        self.pad(size)
    }

    /// Skips what fills the last block of an entry.
    fn pad(&mut self, size: u64) -> Result<(), String> {
        let rest = (size % BLOCK as u64) as usize;
        let mut block = [0; BLOCK];
        match (rest, block.get_mut(rest..)) {
            (1.., Some(padding)) => self.fill(padding),
            (_, Some(_) | None) => Ok(()),
        }
    }
}

/// The head of an entry.
struct EntryHeader {
    name: String,
    size: u64,
    changed_at: Option<DateTime<Utc>>,
    kind: u8,
}

impl EntryHeader {
    fn parse(block: &[u8; BLOCK]) -> Result<Self, String> {
        let field = |from: usize, to: usize| block.get(from..to).unwrap_or_default();
        let sum: u64 = field(0, 148).iter().chain(field(156, BLOCK)).map(|byte| u64::from(*byte)).sum();
        // The field itself counts as eight spaces.
        if octal(field(148, 156)) != Some(sum + 8 * 32) {
            return Err("is damaged, or is not an archive of tar".to_owned());
        }
        let size = octal(field(124, 136)).ok_or("has an entry without a size")?;
        let changed_at = octal(field(136, 148)).and_then(|it| DateTime::from_timestamp(i64::try_from(it).ok()?, 0));
        let (prefix, name) = (text(field(345, 500))?, text(field(0, 100))?);
        let is_posix = field(257, 263) == b"ustar\0";
        let name = if is_posix && !prefix.is_empty() { format!("{prefix}/{name}") } else { name };
        let kind = block.get(156).copied().unwrap_or_default();
        Ok(Self { name, size, changed_at, kind })
    }
}

/// Reads digits to the base of 8.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

/// Reads a text up to its first NUL.
fn text(field: &[u8]) -> Result<String, String> {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| "has a name that is not UTF-8".to_owned())
}

/// Finds the path in a pax header: lines of `LENGTH NAME=VALUE`.
fn pax_path(header: &[u8]) -> Result<Option<String>, String> {
    let header = std::str::from_utf8(header).map_err(|_| "has a name that is not UTF-8".to_owned())?;
    let mut paths = header.lines().filter_map(|line| line.split_once(' ')?.1.strip_prefix("path="));
    Ok(paths.next_back().map(str::to_owned))
}

/// Returns a path without `./`, if it stays within the archive.
fn checked(path: &str) -> Result<String, String> {
    let is_bad = |part: &str| part == ".." || part.contains(['\\', '\0']);
    if path.starts_with('/') || path.split('/').any(is_bad) {
        return Err(format!("has a name that leads out of it: {}", path.escape_debug()));
    }
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(parts.join("/"))
}

fn damaged(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "ends too early, or is larger than 256 MiB unpacked".to_owned(),
        _ => format!("cannot be unpacked: {error}"),
    }
}
