//! The log that the service writes in this process.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use fulexo_tests::eventually;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Begins to keep the log. Tests tell their lines apart by what only they have: a path, a date, a name.
pub fn keep() {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| Kept).init();
    });
}

/// Waits for a line that holds all of these.
pub async fn says(parts: &[&str]) {
    eventually(&format!("a line with {parts:?}"), async || !lines(parts).is_empty()).await;
}

/// Returns the lines that hold all of these.
pub fn lines(parts: &[&str]) -> Vec<String> {
    let bytes = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
}

struct Kept;

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
