//! How far a long piece of work is: a bar on a terminal, elsewhere a line every few seconds. On standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::output::note;

/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(5);
/// Between two drawings of a bar.
const FRAME: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

pub struct Progress {
    name: String,
    /// Where this run began.
    from: u64,
    began: Instant,
    /// When it was last shown.
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// `from` events are done before it begins.
    pub fn new(name: String, from: u64) -> Self {
        Self { name, from, began: Instant::now(), shown: None, is_terminal: std::io::stderr().is_terminal() }
    }

    /// Shows that so many events of so many are done, if it is time.
    pub fn show(&mut self, done: u64, all: u64) {
        let now = Instant::now();
        let (every, since) =
            if self.is_terminal { (FRAME, self.shown) } else { (LINE, self.shown.or(Some(self.began))) };
        if since.is_some_and(|since| now - since < every) {
            return;
        }
        self.shown = Some(now);
        let text = self.text(done, all, now - self.began);
        if self.is_terminal {
            // Cut at the edge of a narrow terminal rather than wrapped, where it could not be drawn over; to the end of
            // the line, since the one before may have been longer.
            draw(&format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"));
        } else {
            note(text);
        }
    }

    /// Says something between two drawings, in the place of the bar, which comes again below.
    pub fn say(&mut self, text: &str) {
        if self.is_terminal && self.shown.take().is_some() {
            draw("\r\x1b[K");
        }
        note(text);
    }

    /// Leaves the line that the bar is on.
    pub fn end(&mut self) {
        if self.is_terminal && self.shown.take().is_some() {
            note("");
        }
    }

    fn text(&self, done: u64, all: u64, elapsed: Duration) -> String {
        let percent = (done * 100).checked_div(all).unwrap_or(100).min(100);
        let filled = usize::try_from(percent).unwrap_or_default() * WIDTH / 100;
        let bar = if self.is_terminal {
            format!(" [{}{}]", "█".repeat(filled), " ".repeat(WIDTH - filled))
        } else {
            String::new()
        };
        let made = done.saturating_sub(self.from);
        let rate = u128::from(made) * 1_000 / elapsed.as_millis().max(1);
        let left = match u64::try_from(rate).unwrap_or(u64::MAX) {
            0 => String::new(),
            rate => format!(", {} s left", all.saturating_sub(done).div_ceil(rate)),
        };
        format!(
            "{}{bar} {percent:>3} %  {} of {} events, {}/s{left}",
            self.name,
            grouped(done),
            grouped(all),
            grouped(rate)
        )
    }
}

fn draw(text: &str) {
    let mut terminal = std::io::stderr();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

/// Digits in groups of three.
pub fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_how_fast_and_how_long_it_takes() {
        let progress =
            Progress { name: "audit".into(), from: 1_000, began: Instant::now(), shown: None, is_terminal: false };
        assert_eq!(
            progress.text(411_000, 1_000_000, Duration::from_secs(2)),
            "audit  41 %  411,000 of 1,000,000 events, 205,000/s, 3 s left"
        );
        assert_eq!(progress.text(0, 0, Duration::ZERO), "audit 100 %  0 of 0 events, 0/s");
    }

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        let progress =
            Progress { name: "audit".into(), from: 0, began: Instant::now(), shown: None, is_terminal: true };
        let text = progress.text(50, 100, Duration::from_secs(1));
        assert!(text.starts_with(&format!("audit [{}{}]  50 %", "█".repeat(15), " ".repeat(15))), "{text}");
    }
}
