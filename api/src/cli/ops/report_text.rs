//! A report as text: a line per check, and below each finding its evidence, its remedy and its reference, wrapped to the
//! width of the terminal.

use anstyle::{AnsiColor, Style};
use console::measure_text_width;
use fulexo_ops::finding::{Finding, Severity};
use fulexo_ops::report::{CheckResult, Report};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::output::{DIM, Output};

/// The width of the first column: `critical`, and two spaces on either side.
const MARGIN: usize = 12;
/// The width outside a terminal, and the maximum in one: longer lines are hard to read.
const MOST: usize = 100;
/// The same of an overview, which is read on whatever screen there is.
const NARROW: usize = 80;
/// The width of the column of names in an overview.
const NAMES: usize = 13;
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const MINOR: Style = AnsiColor::Yellow.on_default();

/// Prints a report.
pub fn print(report: &Report, out: &mut Output) -> Result<(), Failure> {
    out.line(format_args!("{} {}", report.verb, report.target))?;
    out.line("")?;
    for check in &report.checks {
        match &check.result {
            CheckResult::Passed { detail } => row(out, "ok", GOOD, &joined(&check.title, detail), MOST)?,
            CheckResult::NotChecked { reason } => {
                row(out, "?", MINOR, &joined(&check.title, &format!("not checked: {reason}")), MOST)?;
            }
            CheckResult::Found { findings } => {
                for it in findings {
                    finding(out, it, MOST)?;
                }
            }
        }
    }
    if !report.checks.is_empty() {
        out.line("")?;
    }
    for (name, value) in &report.facts {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        row(out, "", Style::new(), &format!("{}: {text}", name.replace('_', " ")), MOST)?;
    }
    if !report.facts.is_empty() {
        out.line("")?;
    }
    out.line(summary(report))
}

/// Prints a report as an overview: a line per check with the summary among its facts, and the findings below all of them.
pub fn print_overview(report: &Report, out: &mut Output) -> Result<(), Failure> {
    for line in wrapped(&format!("{} {}", report.verb, report.target), width(out, NARROW)) {
        out.line(line)?;
    }
    out.line("")?;
    for check in &report.checks {
        let fact = |name: &str| report.facts.get(&check.id).and_then(|facts| facts.get(name)?.as_str());
        let (label, style, text) = match &check.result {
            CheckResult::Passed { detail } => ("ok", GOOD, detail.clone()),
            CheckResult::NotChecked { reason } => ("?", MINOR, format!("not checked: {reason}")),
            CheckResult::Found { findings } => {
                let worst = findings.iter().filter(|it| it.accepted.is_none()).map(|it| it.severity).max();
                let (label, style) = worst.map_or(("accepted", DIM), labelled);
                (label, style, fact("summary").unwrap_or_default().to_owned())
            }
        };
        let text = fact("source").map_or_else(|| text.clone(), |source| format!("{text} ({source})"));
        let name = check.id.replace('_', " ");
        let mut lines = wrapped(&text, width(out, NARROW).saturating_sub(NAMES)).into_iter();
        let first = lines.next().unwrap_or_default();
        out.line(format_args!("  {style}{label:<8}{style:#}  {}", format!("{name:<NAMES$}{first}").trim_end()))?;
        let indent = MARGIN + NAMES;
        lines.try_for_each(|line| out.line(format_args!("{:indent$}{line}", "")))?;
    }
    out.line("")?;
    for it in report.findings() {
        finding(out, it, NARROW)?;
        out.line("")?;
    }
    wrapped(&summary(report), width(out, NARROW)).into_iter().try_for_each(|line| out.line(line))
}

const fn labelled(severity: Severity) -> (&'static str, Style) {
    match severity {
        Severity::Low => ("low", MINOR),
        Severity::Medium => ("medium", MINOR),
        Severity::High => ("high", BAD),
        Severity::Critical => ("critical", BAD),
    }
}

fn finding(out: &mut Output, finding: &Finding, most: usize) -> Result<(), Failure> {
    let (label, style) = match &finding.accepted {
        Some(_) => ("accepted", DIM),
        None => labelled(finding.severity),
    };
    row(out, label, style, &format!("{}: {}", finding.subject, finding.title), most)?;
    below(out, &finding.evidence, Style::new(), most)?;
    match &finding.accepted {
        Some(reason) => below(out, &format!("accepted: {reason}"), Style::new(), most)?,
        None => below(out, &format!("To mend it: {}", finding.remedy), Style::new(), most)?,
    }
    below(out, &format!("{} ({})", finding.reference, finding.rule), DIM, most)
}

/// Writes the first line of an entry and what wraps below it.
fn row(out: &mut Output, label: &str, style: Style, text: &str, most: usize) -> Result<(), Failure> {
    let mut lines = wrapped(text, width(out, most)).into_iter();
    let first = lines.next().unwrap_or_default();
    out.line(format_args!("  {style}{label:<8}{style:#}  {first}"))?;
    lines.try_for_each(|line| out.line(format_args!("{:MARGIN$}{line}", "")))
}

fn below(out: &mut Output, text: &str, style: Style, most: usize) -> Result<(), Failure> {
    let lines = wrapped(text, width(out, most));
    lines.into_iter().try_for_each(|line| out.line(format_args!("{:MARGIN$}{style}{line}{style:#}", "")))
}

/// The width of what stands beside the first column.
fn width(out: &Output, most: usize) -> usize {
    out.width().map_or(most, usize::from).clamp(MARGIN + 20, most) - MARGIN
}

fn joined(title: &str, detail: &str) -> String {
    if detail.is_empty() { title.to_owned() } else { format!("{title}: {detail}") }
}

/// Breaks a text into lines of a width, at spaces. A word that is longer stays whole, so that it can be copied. Control
/// characters, which a server may have sent, are shown as their escapes.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let text: String = text
        .chars()
        .flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect() } else { vec![c] })
        .collect();
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && measure_text_width(&line) + 1 + measure_text_width(word) > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn summary(report: &Report) -> String {
    let total: usize = Severity::ALL.into_iter().map(|severity| report.count(severity)).sum();
    let of = |severity: Severity| match report.count(severity) {
        0 => None,
        count => Some(format!("{count} {}", severity.as_str())),
    };
    let by_severity: Vec<_> = Severity::ALL.into_iter().rev().filter_map(of).collect();
    let (mut passed, mut unchecked) = (0, 0);
    for check in &report.checks {
        match check.result {
            CheckResult::Passed { .. } => passed += 1,
            CheckResult::NotChecked { .. } => unchecked += 1,
            CheckResult::Found { .. } => {}
        }
    }
    let accepted = report.findings().filter(|finding| finding.accepted.is_some()).count();
    let mut parts = match total {
        0 => vec!["no findings".to_owned()],
        1 => vec![format!("1 finding ({})", by_severity.join(", "))],
        _ => vec![format!("{total} findings ({})", by_severity.join(", "))],
    };
    if accepted > 0 {
        parts.push(format!("{accepted} accepted"));
    }
    if unchecked > 0 {
        parts.push(format!("{unchecked} not checked"));
    }
    parts.push(format!("{passed} clean"));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_a_long_word_stays_whole() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrapped("a aaaaaaaaaa b", 5), ["a", "aaaaaaaaaa", "b"]);
        assert_eq!(wrapped("one\ntwo", 20), ["one", "two"]);
        assert_eq!(wrapped("日本 日本", 5), ["日本", "日本"], "two columns each");
    }

    #[test]
    fn what_a_server_sends_cannot_write_to_the_terminal() {
        assert_eq!(wrapped("a\u{1b}[2Jb", 80), ["a\\u{1b}[2Jb"]);
    }
}
