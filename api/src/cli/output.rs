//! What a verb says: results on standard output, everything else on standard error. No verb prints in another way.
//!
//! A reader that has had enough, such as `head`, is not an error: what it does not read is dropped, and the verb ends as
//! it would have. What cannot be written for another reason, such as a full disk, is one.

use std::fmt::Display;
use std::io::{self, ErrorKind, Stderr, Stdout, Write};

use super::Failure;

/// Standard output.
pub struct Output {
    stream: Stdout,
    is_closed: bool,
}

impl Output {
    pub fn new() -> Self {
        Self { stream: io::stdout(), is_closed: false }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// When it could not be written, unless nobody reads any more.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        // Flushed: the reader sees each line at once, and an error belongs to the line that it befell.
        match writeln!(self.stream, "{text}").and_then(|()| self.stream.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
    }

    /// `true` if nobody reads any more: a verb that only shows something may end.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// Standard error for the service's log. What cannot be written there is dropped: a service whose log nobody reads any more
/// serves all the same.
pub struct LogWriter(Stderr);

impl LogWriter {
    pub fn new() -> Self {
        Self(io::stderr())
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Writes a line on standard error: progress, and why a verb failed. Nobody can be told that this failed.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
