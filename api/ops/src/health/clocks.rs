//! The clocks of nodes, database and this machine. Tokens, codes and locks end by them.

use serde_json::json;

use super::area::{HealthArea, HealthFacts};
use super::observations::HealthObservations;
use super::probes::clock_reading::{ClockReading, HERE};
use crate::audit::audit_check::{AuditCheck, AuditFindings};
use crate::finding::{Rule, Severity};

const DIFFER: Rule = Rule {
    id: "clocks.differ",
    title: "a clock is wrong",
    severity: Severity::High,
    remedy: "Start NTP on the machine, and correct its clock: tokens, codes and locks end by it.",
    reference: "docs/runbooks/clock-wrong.md",
};

/// The check.
pub const CHECK: AuditCheck =
    AuditCheck { id: "clocks", title: "the clocks of nodes, database and this machine agree", rules: &[DIFFER] };

pub(super) fn check(observations: &HealthObservations) -> HealthArea {
    let mut readings: Vec<(String, ClockReading)> = Vec::new();
    if let Some(open) = observations.database.opened() {
        readings.push(("database".to_owned(), open.clock));
    }
    for service in &observations.services {
        if let Some(clock) = service.clock {
            readings.push((service.label.clone(), clock));
        }
    }
    if readings.is_empty() {
        return HealthArea::unchecked(&CHECK, "neither a node nor PostgreSQL showed its clock");
    }
    let mut findings = AuditFindings::default();
    for (subject, reading) in wrong(&readings) {
        findings.push(&DIFFER, subject, shown(reading));
    }
    let largest = readings.iter().map(|(_, reading)| (reading.ahead.abs() - reading.error).max(0.0));
    let largest = largest.fold(0.0, f64::max);
    let seconds: HealthFacts =
        readings.iter().map(|(name, reading)| (name.clone(), json!((reading.ahead * 1e3).round() / 1e3))).collect();
    HealthArea::of(&CHECK, findings, format!("{} compared, at most {largest:.1} s apart", readings.len()))
        .fact("seconds_ahead_of_this_machine", json!(seconds))
}

fn shown(reading: ClockReading) -> String {
    let side = if reading.ahead < 0.0 { "behind" } else { "ahead of" };
    format!("{:.1} s {side} this machine, give or take {:.1} s", reading.ahead.abs(), reading.error)
}

/// Returns the clocks that are wrong. If all others agree with one another and not with this machine, it is this machine's.
fn wrong(readings: &[(String, ClockReading)]) -> Vec<(String, ClockReading)> {
    let off: Vec<_> = readings.iter().filter(|(_, reading)| !reading.agrees_with(HERE)).collect();
    if let [(_, first), _, ..] = readings
        && off.len() == readings.len()
        && readings.iter().all(|(_, reading)| reading.agrees_with(*first))
    {
        return vec![("this machine".to_owned(), ClockReading { ahead: -first.ahead, ..*first })];
    }
    off.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ahead: f64, error: f64) -> ClockReading {
        ClockReading { ahead, error }
    }

    fn names(readings: &[(&str, ClockReading)]) -> Vec<String> {
        let readings: Vec<_> = readings.iter().map(|(name, reading)| ((*name).to_owned(), *reading)).collect();
        wrong(&readings).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_one_clock_that_differs_is_named() {
        let (sound, late) = (reading(0.1, 0.1), reading(-9.0, 0.5));
        assert_eq!(names(&[("database", sound), ("a", sound), ("b", late)]), ["b"]);
        assert_eq!(names(&[("database", late), ("a", late)]), ["this machine"]);
        assert_eq!(names(&[("database", late)]), ["database"], "of two clocks nobody knows which one is right");
        assert_eq!(names(&[("database", sound), ("a", sound)]), [""; 0]);
    }
}
