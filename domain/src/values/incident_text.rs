//! The text that responders write about an incident.

use super::invalid::InvalidValue;

/// The summary, a note or the lessons of an incident, 1 to 4,000 characters. Free text may name people. It is therefore
/// sealed like personal data, and has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct IncidentText(String);

/// The most characters of a line of a list.
const MAX_LINE: usize = 500;
/// The most characters of the line that counts what is left out, with the end of the line before.
const MAX_LAST_LINE: usize = 40;

/// Returns a line with at most so many characters, without control characters.
fn cut(line: &str) -> String {
    let line = line.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    let mut chars = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept: String = chars.by_ref().take(MAX_LINE - 1).collect();
    match (chars.next(), chars.next()) {
        (Some(last), None) => kept.push(last),
        (Some(_), Some(_)) => kept.push('…'),
        (None, _) => {}
    }
    kept
}

impl IncidentText {
    /// The maximum length, in characters.
    pub const MAX_CHARS: usize = 4_000;

    /// Reads a text.
    ///
    /// # Errors
    /// The text is empty after trimming, or longer than 4,000 characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidValue("must not be empty"));
        }
        if text.chars().count() > Self::MAX_CHARS {
            return Err(InvalidValue("must be at most 4000 characters long"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text of a list that may be long: a head, as many of the lines as there is room for, and a last line that
    /// counts those left out, `unread` ones with them. A long line is cut, and control characters become spaces.
    ///
    /// # Errors
    /// The head is blank, and there are no lines.
    pub fn of_lines<'a>(
        head: &str,
        lines: impl ExactSizeIterator<Item = &'a str>,
        unread: usize,
    ) -> Result<Self, InvalidValue> {
        let mut text = cut(head);
        let mut room = Self::MAX_CHARS.saturating_sub(text.chars().count() + MAX_LAST_LINE);
        let mut left_out = lines.len().saturating_add(unread);
        for line in lines {
            let line = cut(line);
            // The end of the line before counts as well.
            let Some(rest) = room.checked_sub(line.chars().count() + 1) else { break };
            (room, left_out) = (rest, left_out.saturating_sub(1));
            text.push('\n');
            text.push_str(&line);
        }
        if left_out > 0 {
            text.push_str(&format!("\n{left_out} more are left out"));
        }
        Self::parse(&text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_lines(head: &str, lines: &[&str], unread: usize) -> String {
        IncidentText::of_lines(head, lines.iter().copied(), unread).unwrap().as_str().to_owned()
    }

    #[test]
    fn a_list_that_fits_is_written_whole() {
        assert_eq!(of_lines("head", &["a\nb\0", "ü"], 0), "head\na b\nü");
        assert_eq!(of_lines("head", &[], 0), "head");
        assert_eq!(of_lines("head", &["a"], 7), "head\na\n7 more are left out");
        assert!(IncidentText::of_lines(" ", [].into_iter(), 0).is_err());
    }

    #[test]
    fn a_list_of_the_worst_size_is_cut_between_characters_and_says_how_much_is_missing() {
        let exact = "é".repeat(500);
        assert_eq!(of_lines("head", &[&exact], 0), format!("head\n{exact}"));
        let long = "☕".repeat(1_000_000);
        let text = of_lines(&long, &[long.as_str(); 1_000], usize::MAX);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8, "the head, six, and the last");
        assert!(lines.iter().take(7).all(|line| line.chars().count() == 500 && line.ends_with('…')));
        assert_eq!(lines.last().copied(), Some(format!("{} more are left out", usize::MAX - 6).as_str()));
        assert!(text.chars().count() <= IncidentText::MAX_CHARS);
        let short = of_lines("head", &["x"; 5_000], 0);
        let shown = short.lines().filter(|line| *line == "x").count();
        assert!(short.ends_with(&format!("\n{} more are left out", 5_000 - shown)) && shown > 1_900, "{shown}");
    }
}
