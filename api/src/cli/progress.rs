//! The progress of long work on standard error: a bar on a terminal, elsewhere a line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::output::note;

/// The time between two lines without a terminal.
const LINE: Duration = Duration::from_secs(5);
/// The template of the bar. The bar fills the rest of the line.
const BAR: &str = "{prefix} [{wide_bar}] {percent:>3} %  {human_pos} of {human_len} {unit}, {rate}/s, {eta} left";
/// The template for a narrow terminal.
const NARROW: &str = "{prefix} [{wide_bar}] {percent:>3} %  {eta} left";

pub struct Progress {
    name: String,
    /// The unit of the work, in the plural.
    unit: &'static str,
    /// The number of events that were done before this run.
    from: u64,
    began: Instant,
    /// The time of the last line.
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts the progress of work on events. `from` of them are already done.
    pub fn new(name: String, from: u64) -> Self {
        Self::of("events", name, from)
    }

    /// Starts the progress of work on `unit`. `from` of them are already done.
    pub fn of(unit: &'static str, name: String, from: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| width.0);
            let template = if width < 100 { NARROW } else { BAR };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style.with_key("unit", move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = text.write_str(unit);
            });
            let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = text.write_str(&grouped(state.per_sec().max(0.0) as u64));
            });
            ProgressBar::new(0).with_style(style).with_prefix(name.clone()).with_position(from)
        });
        // A terminal that moves no cursor, such as one without TERM, gets lines.
        let bar = bar.filter(|bar| !bar.is_hidden());
        if let Some(bar) = &bar {
            // The rate counts only this run.
            bar.reset_eta();
        }
        let now = Instant::now();
        Self { name, unit, from, began: now, said: now, bar }
    }

    /// Shows that `done` of `all` events are done. Without a terminal it writes at most one line per interval.
    pub fn show(&mut self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
            return;
        }
        let now = Instant::now();
        if now - self.said >= LINE {
            self.said = now;
            note(self.text(done, all, now - self.began));
        }
    }

    /// Writes a line above the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn text(&self, done: u64, all: u64, elapsed: Duration) -> String {
        let percent = (done * 100).checked_div(all).unwrap_or(100).min(100);
        let made = done.saturating_sub(self.from);
        let rate = u128::from(made) * 1_000 / elapsed.as_millis().max(1);
        let left = match u64::try_from(rate).unwrap_or(u64::MAX) {
            0 => String::new(),
            rate => format!(", {} s left", all.saturating_sub(done).div_ceil(rate)),
        };
        let (done, all, rate) = (grouped(done), grouped(all), grouped(rate));
        format!("{} {percent:>3} %  {done} of {all} {}, {rate}/s{left}", self.name, self.unit)
    }
}

impl Drop for Progress {
    /// Removes the bar.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Formats a number with its digits in groups of three.
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
        let now = Instant::now();
        let progress = Progress { name: "audit".into(), unit: "events", from: 1_000, began: now, said: now, bar: None };
        assert_eq!(
            progress.text(411_000, 1_000_000, Duration::from_secs(2)),
            "audit  41 %  411,000 of 1,000,000 events, 205,000/s, 3 s left"
        );
        assert_eq!(progress.text(0, 0, Duration::ZERO), "audit 100 %  0 of 0 events, 0/s");
    }

    #[test]
    fn the_templates_of_bars_can_be_read() {
        for template in [BAR, NARROW] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
