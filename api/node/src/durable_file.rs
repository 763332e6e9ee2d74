//! Files that outlive a loss of power, replaced as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces a file that this user alone may read: after an error, or a loss of power, it has all of the old content or all of the
/// new one. One process at a time may replace it.
///
/// # Errors
/// [`io::Error`].
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_as(path, content, |_| Ok(()))
}

/// Replaces a file of secrets that exists: the new one has its owner, group and mode. The old content is overwritten where it
/// was, as far as the file system writes in place.
///
/// # Errors
/// [`io::Error`]. Then the file is as before, unless only the overwriting failed.
pub fn replace_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let old = OpenOptions::new().write(true).open(path)?;
    let metadata = old.metadata()?;
    replace_as(path, content, |new| {
        std::os::unix::fs::fchown(new, Some(metadata.uid()), Some(metadata.gid()))?;
        new.set_permissions(metadata.permissions())
    })?;
    let length = usize::try_from(metadata.len()).map_err(io::Error::other)?;
    (&old).write_all(&vec![0; length])?;
    old.sync_all()
}

fn replace_as(path: &Path, content: &[u8], dress: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    dress(&file)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads at most `most` bytes of a file; `None` if it does not exist.
///
/// # Errors
/// [`io::Error`].
pub fn read(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(most).read_to_end(&mut content).map(|_| Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path with an extension after its name.
#[must_use]
pub fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}
