//! Files of keys, changed as a whole: a key is added at the end, or taken away. What else is in them stays.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::durable_file;

/// The longest file of keys, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The failure to change a file of keys.
#[derive(Debug, thiserror::Error)]
#[error("the file of keys {path} cannot be changed")]
pub struct KeyFileError {
    path: PathBuf,
    source: io::Error,
}

/// Adds lines to the end of a file.
pub fn add(path: &Path, lines: &str) -> Result<(), KeyFileError> {
    change(path, |text| {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        Zeroizing::new(format!("{text}{gap}{}\n", lines.trim_end()))
    })
}

/// Adds a line behind another one.
pub fn add_behind(path: &Path, line: &str, new: &str) -> Result<(), KeyFileError> {
    change(path, |text| {
        let both = Zeroizing::new(format!("{}\n{}\n", line.trim_end(), new.trim_end()));
        Zeroizing::new(text.replacen(line, &both, 1))
    })
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let failed = |source| KeyFileError { path: path.to_owned(), source };
    let content = durable_file::read(path, MAX_FILE).map_err(failed)?.map(Zeroizing::new);
    let content = content.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let text = std::str::from_utf8(&content).map_err(|error| failed(io::Error::other(error)))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Takes the text away that `find` finds, if there is one.
pub fn remove(path: &Path, find: impl FnOnce(&str) -> Option<String>) -> Result<(), KeyFileError> {
    change(path, |text| match find(text) {
        Some(found) => Zeroizing::new(text.replacen(Zeroizing::new(found).as_str(), "", 1)),
        None => Zeroizing::new(text.to_owned()),
    })
}

/// Returns the line of a key in a file of `id:key` lines, with its end.
pub fn line_of(text: &str, id: &str) -> Option<String> {
    let is_its = |line: &&str| line.trim().split_once(':').is_some_and(|(own, _)| own == id);
    text.split_inclusive('\n').find(is_its).map(str::to_owned)
}

fn change(path: &Path, change: impl FnOnce(&str) -> Zeroizing<String>) -> Result<(), KeyFileError> {
    let text = read(path)?;
    let changed = change(&text);
    if changed == text {
        return Ok(());
    }
    let replaced = durable_file::replace_secret(path, changed.as_bytes());
    replaced.map_err(|source| KeyFileError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_by_its_id_and_not_by_the_beginning_of_another() {
        let text = "# keys\n2026-1:AAA=\n2026-10:BBB=\n  old : x\nlast:CCC=";
        assert_eq!(line_of(text, "2026-1").as_deref(), Some("2026-1:AAA=\n"));
        assert_eq!(line_of(text, "2026-10").as_deref(), Some("2026-10:BBB=\n"));
        assert_eq!(line_of(text, "last").as_deref(), Some("last:CCC="));
        assert_eq!(line_of(text, "2026"), None);
    }
}
