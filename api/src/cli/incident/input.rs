//! The texts that the verbs read from files or standard input, and no more of them than there may be.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use fulexo_domain::values::IncidentText;

use crate::cli::failure::Failure;

/// Reads a text, and no more of a file than one may have.
pub(super) fn read_text(path: &Path) -> Result<IncidentText, Failure> {
    let text = read_bounded(path, "the text", 4 * IncidentText::MAX_CHARS as u64 + 1_024)?;
    IncidentText::parse(&text).map_err(|error| Failure::Misused(format!("the text {error}")))
}

/// Reads at most so many bytes of a file, or of standard input.
pub(super) fn read_bounded(path: &Path, content: &str, most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Misused(format!("cannot read {content} from {}: {error}", path.display())))?;
    Ok(text)
}
