//! The output of verbs: results on standard output, everything else on standard error. No verb prints in another way.
//!
//! A reader that closes the pipe, such as `head`, is not an error: the rest of the output is dropped, and the verb ends as
//! usual. Any other failure to write, such as a full disk, is an error. Colours are for terminals, unless `--color`,
//! `NO_COLOR` or `CLICOLOR_FORCE` says otherwise. Lines are cut to the width of a terminal, and whole elsewhere.

use std::fmt::Display;
use std::io::{self, ErrorKind, Stderr, Stdout, Write};

use anstream::AutoStream;
use anstyle::Style;
use console::truncate_str;

use super::failure::Failure;
use super::table::Table;

/// The style of secondary text.
pub const DIM: Style = Style::new().dimmed();

/// Standard output.
pub struct Output {
    stream: AutoStream<Stdout>,
    /// The width of the terminal, in columns.
    width: Option<u16>,
    is_closed: bool,
}

impl Output {
    pub fn new() -> Self {
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
        Self { stream: AutoStream::auto(io::stdout()), width, is_closed: false }
    }

    /// Creates an output that prints whole lines if `is_wide`.
    pub fn wide(is_wide: bool) -> Self {
        let output = Self::new();
        if is_wide { Self { width: None, ..output } } else { output }
    }

    /// Returns the width of the terminal, if it is one.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// `true` if lines are cut to a width.
    pub fn is_cut(&self) -> bool {
        self.width.is_some()
    }

    /// `true` if lines are cut to fewer than `columns`.
    pub fn is_narrower_than(&self, columns: u16) -> bool {
        self.width.is_some_and(|width| width < columns)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// If the line cannot be written, unless the reader has closed the pipe.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        // Flushed, so that the reader sees each line at once and an error belongs to its line.
        match writeln!(self.stream, "{text}").and_then(|()| self.stream.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
    }

    /// Writes a line of a listing, cut to the width of the terminal.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn cut_line(&mut self, text: &str) -> Result<(), Failure> {
        match self.width {
            Some(width) => self.line(truncate_str(text, width.into(), "…")),
            None => self.line(text),
        }
    }

    /// Writes a table, or the next rows of one.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn table(&mut self, table: &Table, has_head: bool) -> Result<(), Failure> {
        let mut lines = table.lines(self.width).into_iter();
        match lines.next() {
            Some(head) if has_head => self.cut_line(&format!("{DIM}{head}{DIM:#}"))?,
            Some(_) | None => {}
        }
        lines.try_for_each(|line| self.cut_line(&line))
    }

    /// Writes bytes as they are: lines of data, however many.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
    }

    /// `true` if the reader has closed the pipe. A verb that only shows something may end.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// Standard error for the service's log. A line that cannot be written is dropped: the service runs without a reader of its
/// log.
pub struct LogWriter(Stderr);

impl LogWriter {
    pub fn new() -> Self {
        Self(io::stderr())
    }

    /// `true` if the log may have colours.
    pub fn has_colours() -> bool {
        AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
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

/// Writes a line to standard error: progress, or the failure of a verb. A failure to write is ignored.
pub fn note(text: impl Display) {
    let _ = writeln!(AutoStream::auto(io::stderr()), "{text}");
}
