//! An incident: a threat to the service, from its discovery to the lessons learned from it, in five phases.
//!
//! ```text
//! identified ──> contained ──> eradicated ──> recovered ──> closed
//!                 ^   ^           |               |
//!                 └───┴───────────┴───────────────┘   contained again, until it is closed
//! ```
//!
//! A threat that returns is contained again. Nothing of a closed incident changes, but notes are still taken.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::lockdown::LockdownScope;
use crate::values::{AccountId, FindingRule, InvalidValue, SessionId};

/// The most accounts, events, sessions or findings that an incident has of each.
pub const MAX_LINKS: usize = 100;
/// The most notes, containments and assessments of an incident. The later phases are recorded beyond it.
pub const MAX_ENTRIES: u32 = 1_000;

/// The severity of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentSeverity {
    /// It can wait.
    Low,
    /// It deserves work this day.
    Medium,
    /// It deserves work at once.
    High,
    /// It deserves everybody's work at once.
    Critical,
}

impl IncidentSeverity {
    /// All severities, the least first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Reads a severity by its name.
    ///
    /// # Errors
    /// The severity does not exist.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|severity| severity.as_str() == name);
        known.ok_or(InvalidValue("must be low, medium, high or critical"))
    }

    /// The name in leaves, tables and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// The phase of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentPhase {
    /// The incident is known.
    Identified,
    /// The threat cannot spread.
    Contained,
    /// The threat and its cause are gone.
    Eradicated,
    /// The service works as usual.
    Recovered,
    /// The lessons are recorded.
    Closed,
}

impl IncidentPhase {
    /// All phases, in their order.
    pub const ALL: [Self; 5] = [Self::Identified, Self::Contained, Self::Eradicated, Self::Recovered, Self::Closed];

    /// Reads a phase by its name.
    ///
    /// # Errors
    /// The phase does not exist.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|phase| phase.as_str() == name);
        known.ok_or(InvalidValue("must be identified, contained, eradicated, recovered or closed"))
    }

    /// The name in tables and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identified => "identified",
            Self::Contained => "contained",
            Self::Eradicated => "eradicated",
            Self::Recovered => "recovered",
            Self::Closed => "closed",
        }
    }
}

/// The evidence of an incident, by ids.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IncidentLinks {
    /// The accounts concerned.
    pub accounts: BTreeSet<AccountId>,
    /// The positions of events.
    pub events: BTreeSet<u64>,
    /// The rules that findings of checks break.
    pub findings: BTreeSet<FindingRule>,
    /// The sessions concerned.
    pub sessions: BTreeSet<SessionId>,
}

impl IncidentLinks {
    /// Adds other links.
    pub fn extend(&mut self, other: Self) {
        self.accounts.extend(other.accounts);
        self.events.extend(other.events);
        self.findings.extend(other.findings);
        self.sessions.extend(other.sessions);
    }

    /// `true` if one of the lists has more than [`MAX_LINKS`] members.
    fn is_too_long(&self) -> bool {
        [self.accounts.len(), self.events.len(), self.findings.len(), self.sessions.len()]
            .into_iter()
            .any(|length| length > MAX_LINKS)
    }
}

/// The measures of a containment, by their numbers. The events of each measure have the request in common with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainmentMeasures {
    /// The number of suspended accounts.
    pub accounts: u32,
    /// The number of revoked API keys.
    pub api_keys: u32,
    /// The number of purposes whose key was replaced. Events have it since keys can be replaced in a containment.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keys: u32,
    /// The scope of the lockdown, if there was one.
    pub lockdown: Option<LockdownScope>,
    /// The number of revoked sessions.
    pub sessions: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An event of an incident. Sealed: the summary when it is opened, the reason of a containment, the lessons when it is
/// closed, and the note of each other event that has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IncidentEvent {
    /// The incident was opened.
    #[serde(rename = "incident.opened")]
    Opened {
        /// Its evidence.
        links: IncidentLinks,
        /// The account that leads the response.
        owner: Option<AccountId>,
        /// Its severity.
        severity: IncidentSeverity,
    },
    /// A containment began. Its measures follow, each an event of its own.
    #[serde(rename = "incident.containment_started")]
    ContainmentStarted {
        /// The measures to take.
        measures: ContainmentMeasures,
    },
    /// The threat was contained: every measure is in force on every node.
    #[serde(rename = "incident.contained")]
    Contained {
        /// The measures taken.
        measures: ContainmentMeasures,
    },
    /// The threat and its cause were removed.
    #[serde(rename = "incident.eradicated")]
    Eradicated {},
    /// The service works as usual.
    #[serde(rename = "incident.recovered")]
    Recovered {},
    /// The incident was closed, with its lessons.
    #[serde(rename = "incident.closed")]
    Closed {},
    /// A note was taken.
    #[serde(rename = "incident.noted")]
    Noted {
        /// More evidence.
        links: IncidentLinks,
    },
    /// The owner or the severity changed.
    #[serde(rename = "incident.triaged")]
    Triaged {
        /// The account that leads the response from now on.
        owner: Option<AccountId>,
        /// The severity from now on.
        severity: IncidentSeverity,
    },
}

/// A command to an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncidentCommand {
    /// Open the incident.
    Open {
        /// Its evidence.
        links: IncidentLinks,
        /// The account that leads the response.
        owner: Option<AccountId>,
        /// Its severity.
        severity: IncidentSeverity,
    },
    /// Begin to contain it.
    StartContainment(ContainmentMeasures),
    /// Record that it is contained.
    Contain(ContainmentMeasures),
    /// Record that the threat and its cause are removed.
    Eradicate,
    /// Record that the service works as usual.
    Recover,
    /// Close it.
    Close,
    /// Take a note, with more evidence.
    Note(IncidentLinks),
    /// Change the owner or the severity. Has no effect if both stay the same.
    Triage {
        /// The new owner; `None` for no change.
        owner: Option<AccountId>,
        /// The new severity; `None` for no change.
        severity: Option<IncidentSeverity>,
    },
}

/// The refusal of a command to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IncidentError {
    /// The incident was never opened.
    #[error("the incident does not exist")]
    NotFound,
    /// The incident was opened before.
    #[error("the incident is already open")]
    AlreadyOpened,
    /// Another phase comes first.
    #[error("the incident is {}, and another phase comes first", .0.as_str())]
    OutOfOrder(IncidentPhase),
    /// The incident has as many links, or as many notes, as one may have.
    #[error("the incident has as many links or notes as one may have")]
    Full,
}

/// The state of an incident, derived from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IncidentState {
    /// The phase; `None` if it was never opened.
    phase: Option<IncidentPhase>,
    severity: Option<IncidentSeverity>,
    owner: Option<AccountId>,
    links: IncidentLinks,
    entries: u32,
}

impl IncidentState {
    fn opened(&self) -> Result<IncidentPhase, IncidentError> {
        self.phase.ok_or(IncidentError::NotFound)
    }

    /// Refuses another entry if the incident has as many as one may have.
    const fn require_room(&self) -> Result<(), IncidentError> {
        if self.entries < MAX_ENTRIES { Ok(()) } else { Err(IncidentError::Full) }
    }

    /// Refuses the next phase unless the incident is in the one before it.
    fn require(&self, before: IncidentPhase) -> Result<(), IncidentError> {
        match self.opened()? {
            phase if phase == before => Ok(()),
            phase => Err(IncidentError::OutOfOrder(phase)),
        }
    }

    fn require_not_closed(&self) -> Result<(), IncidentError> {
        match self.opened()? {
            IncidentPhase::Closed => Err(IncidentError::OutOfOrder(IncidentPhase::Closed)),
            IncidentPhase::Identified
            | IncidentPhase::Contained
            | IncidentPhase::Eradicated
            | IncidentPhase::Recovered => Ok(()),
        }
    }
}

/// The aggregate of an incident.
pub struct Incident;

impl Aggregate for Incident {
    const NAME: &'static str = "incident";
    type State = IncidentState;
    type Command = IncidentCommand;
    type Event = IncidentEvent;
    type Error = IncidentError;

    fn handle_command(state: &IncidentState, command: IncidentCommand) -> Result<Vec<IncidentEvent>, IncidentError> {
        Ok(vec![match command {
            IncidentCommand::Open { links, owner, severity } => {
                if state.phase.is_some() {
                    return Err(IncidentError::AlreadyOpened);
                }
                if links.is_too_long() {
                    return Err(IncidentError::Full);
                }
                IncidentEvent::Opened { links, owner, severity }
            }
            IncidentCommand::StartContainment(measures) => {
                state.require_not_closed()?;
                state.require_room()?;
                IncidentEvent::ContainmentStarted { measures }
            }
            IncidentCommand::Contain(measures) => {
                state.require_not_closed()?;
                IncidentEvent::Contained { measures }
            }
            IncidentCommand::Eradicate => {
                state.require(IncidentPhase::Contained)?;
                IncidentEvent::Eradicated {}
            }
            IncidentCommand::Recover => {
                state.require(IncidentPhase::Eradicated)?;
                IncidentEvent::Recovered {}
            }
            IncidentCommand::Close => {
                state.require(IncidentPhase::Recovered)?;
                IncidentEvent::Closed {}
            }
            IncidentCommand::Note(links) => {
                state.opened()?;
                state.require_room()?;
                let mut all = state.links.clone();
                all.extend(links.clone());
                if all.is_too_long() {
                    return Err(IncidentError::Full);
                }
                IncidentEvent::Noted { links }
            }
            IncidentCommand::Triage { owner, severity } => {
                state.require_not_closed()?;
                let (owner, severity) = (owner.or(state.owner), severity.or(state.severity));
                let Some(severity) = severity else { return Err(IncidentError::NotFound) };
                if (owner, Some(severity)) == (state.owner, state.severity) {
                    return Ok(Vec::new());
                }
                state.require_room()?;
                IncidentEvent::Triaged { owner, severity }
            }
        }])
    }

    fn apply_event(mut state: IncidentState, event: IncidentEvent) -> IncidentState {
        match event {
            IncidentEvent::Opened { links, owner, severity } => {
                return IncidentState {
                    phase: Some(IncidentPhase::Identified),
                    severity: Some(severity),
                    owner,
                    links,
                    entries: 0,
                };
            }
            IncidentEvent::ContainmentStarted { .. } => state.entries += 1,
            IncidentEvent::Contained { .. } => state.phase = Some(IncidentPhase::Contained),
            IncidentEvent::Eradicated {} => state.phase = Some(IncidentPhase::Eradicated),
            IncidentEvent::Recovered {} => state.phase = Some(IncidentPhase::Recovered),
            IncidentEvent::Closed {} => state.phase = Some(IncidentPhase::Closed),
            IncidentEvent::Noted { links } => {
                state.links.extend(links);
                state.entries += 1;
            }
            IncidentEvent::Triaged { owner, severity } => {
                (state.owner, state.severity) = (owner, Some(severity));
                state.entries += 1;
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::given;

    const MEASURES: ContainmentMeasures =
        ContainmentMeasures { accounts: 2, api_keys: 0, keys: 0, lockdown: Some(LockdownScope::Logins), sessions: 3 };
    const CONTAINED: IncidentEvent = IncidentEvent::Contained { measures: MEASURES };
    const ERADICATED: IncidentEvent = IncidentEvent::Eradicated {};
    const RECOVERED: IncidentEvent = IncidentEvent::Recovered {};
    const CLOSED: IncidentEvent = IncidentEvent::Closed {};

    fn opened() -> IncidentEvent {
        IncidentEvent::Opened { links: IncidentLinks::default(), owner: None, severity: IncidentSeverity::High }
    }

    fn events(positions: std::ops::Range<u64>) -> IncidentLinks {
        IncidentLinks { events: positions.collect(), ..IncidentLinks::default() }
    }

    #[test]
    fn an_incident_goes_through_its_phases_in_order() {
        let open =
            IncidentCommand::Open { links: IncidentLinks::default(), owner: None, severity: IncidentSeverity::High };
        given::<Incident>([]).when(open.clone()).then([opened()]);
        given::<Incident>([opened()]).when(open).refused(IncidentError::AlreadyOpened);
        let steps = [
            (IncidentCommand::Contain(MEASURES), CONTAINED),
            (IncidentCommand::Eradicate, ERADICATED),
            (IncidentCommand::Recover, RECOVERED),
            (IncidentCommand::Close, CLOSED),
        ];
        let mut history = vec![opened()];
        for (command, event) in steps {
            given::<Incident>([]).when(command.clone()).refused(IncidentError::NotFound);
            given::<Incident>(history.clone()).when(command).then([event.clone()]);
            history.push(event);
        }
    }

    #[test]
    fn a_phase_whose_turn_it_is_not_is_refused() {
        use IncidentPhase::{Closed, Contained, Eradicated, Identified, Recovered};
        let history = [opened(), CONTAINED, ERADICATED, RECOVERED, CLOSED];
        for (length, phase) in (1..).zip([Identified, Contained, Eradicated, Recovered, Closed]) {
            let commands = [
                (IncidentCommand::Eradicate, Contained),
                (IncidentCommand::Recover, Eradicated),
                (IncidentCommand::Close, Recovered),
            ];
            for (command, before) in commands.into_iter().filter(|(_, before)| *before != phase) {
                let past = history.iter().take(length).cloned();
                let refused = given::<Incident>(past).when(command);
                refused.refused(IncidentError::OutOfOrder(phase));
                assert_ne!(before, phase);
            }
        }
    }

    #[test]
    fn a_threat_that_returns_is_contained_again_until_the_incident_is_closed() {
        for past in [vec![opened(), CONTAINED], vec![opened(), CONTAINED, ERADICATED, RECOVERED]] {
            given::<Incident>(past.clone()).when(IncidentCommand::Contain(MEASURES)).then([CONTAINED]);
            given::<Incident>(past.into_iter().chain([CONTAINED])).when(IncidentCommand::Eradicate).then([ERADICATED]);
        }
        let closed = || [opened(), CONTAINED, ERADICATED, RECOVERED, CLOSED];
        let refusal = IncidentError::OutOfOrder(IncidentPhase::Closed);
        given::<Incident>(closed()).when(IncidentCommand::Contain(MEASURES)).refused(refusal);
        given::<Incident>(closed()).when(IncidentCommand::StartContainment(MEASURES)).refused(refusal);
        let triage = IncidentCommand::Triage { owner: None, severity: Some(IncidentSeverity::Low) };
        given::<Incident>(closed()).when(triage).refused(refusal);
    }

    #[test]
    fn notes_are_taken_in_every_phase_also_of_a_closed_incident() {
        let note = || IncidentCommand::Note(events(4..6));
        given::<Incident>([]).when(note()).refused(IncidentError::NotFound);
        for length in 1..=5 {
            let past = [opened(), CONTAINED, ERADICATED, RECOVERED, CLOSED].into_iter().take(length);
            given::<Incident>(past).when(note()).then([IncidentEvent::Noted { links: events(4..6) }]);
        }
    }

    #[test]
    fn an_incident_has_at_most_a_hundred_links_of_each_kind() {
        let open = |links| IncidentCommand::Open { links, owner: None, severity: IncidentSeverity::Low };
        given::<Incident>([]).when(open(events(0..101))).refused(IncidentError::Full);
        let full = IncidentEvent::Opened { links: events(0..100), owner: None, severity: IncidentSeverity::Low };
        given::<Incident>([full.clone()])
            .when(IncidentCommand::Note(events(0..100)))
            .then([IncidentEvent::Noted { links: events(0..100) }]);
        given::<Incident>([full]).when(IncidentCommand::Note(events(100..101))).refused(IncidentError::Full);
    }

    #[test]
    fn an_incident_with_a_thousand_notes_takes_no_more_and_is_closed_all_the_same() {
        let noted = IncidentEvent::Noted { links: IncidentLinks::default() };
        let full = || std::iter::once(opened()).chain(std::iter::repeat_n(noted.clone(), 1_000));
        given::<Incident>(full()).when(IncidentCommand::Note(IncidentLinks::default())).refused(IncidentError::Full);
        given::<Incident>(full()).when(IncidentCommand::StartContainment(MEASURES)).refused(IncidentError::Full);
        given::<Incident>(full().chain([CONTAINED, ERADICATED, RECOVERED])).when(IncidentCommand::Close).then([CLOSED]);
    }

    #[test]
    fn an_owner_and_a_severity_are_kept_until_they_change() {
        let ann = AccountId(Uuid::from_u128(1));
        let triage = |owner, severity| IncidentCommand::Triage { owner, severity };
        let triaged = |owner, severity| IncidentEvent::Triaged { owner, severity };
        given::<Incident>([]).when(triage(Some(ann), None)).refused(IncidentError::NotFound);
        given::<Incident>([opened()]).when(triage(None, Some(IncidentSeverity::High))).then([]);
        let owned = triaged(Some(ann), IncidentSeverity::High);
        given::<Incident>([opened()]).when(triage(Some(ann), None)).then([owned.clone()]);
        given::<Incident>([opened(), owned])
            .when(triage(None, Some(IncidentSeverity::Critical)))
            .then([triaged(Some(ann), IncidentSeverity::Critical)]);
    }
}
