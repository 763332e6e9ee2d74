//! Files of text that arguments name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::cli::failure::Failure;

/// Reads a file that holds a secret or a list, and no more of it than there may be.
pub fn read_text(path: &Path, most: u64) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    read.map_err(|error| Failure::Misused(format!("cannot read {}: {error}", path.display())))?;
    if text.len() as u64 > most {
        return Err(Failure::Misused(format!("{} is longer than {most} bytes", path.display())));
    }
    Ok(text)
}
