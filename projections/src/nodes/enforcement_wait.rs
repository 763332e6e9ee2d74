//! The wait for the enforcement of an event: the arithmetic of leases, without a clock or a database.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::registry_snapshot::RegistryEntry;

/// A wait for the enforcement of one event.
pub(super) struct EnforcementWait {
    position: u64,
    /// Each other node that may hold a lease without the event: its id, its name, and the end of such a lease.
    others: Vec<(Uuid, Arc<str>, Instant)>,
}

/// The enforcement of the event on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnforcementState {
    /// The node has applied the event.
    Enforced,
    /// The node may judge without the event until this time.
    LeasedUntil(Instant),
    /// The node judges nothing from memory until it has caught up.
    Down,
}

impl EnforcementWait {
    /// Starts a wait from a registry that was read after the event was committed. A node that joins later reads the
    /// log's head after the event, too.
    pub fn of(position: u64, seen: &[RegistryEntry], own: Option<Uuid>) -> Self {
        let others = seen.iter().filter(|node| Some(node.id) != own);
        Self { position, others: others.map(|node| (node.id, Arc::clone(&node.name), node.lease_end())).collect() }
    }

    /// The number of nodes that enforce the event and the names of those that do not, once no node has to be waited
    /// for; otherwise the latest time for the next look. `here` is this node, if it is one: a command-line process
    /// judges nobody.
    pub fn outcome(
        &self,
        seen: &[RegistryEntry],
        now: Instant,
        here: Option<(&Arc<str>, EnforcementState)>,
    ) -> Result<(usize, Vec<Arc<str>>), Instant> {
        let (mut enforced_on, mut down, mut next) = (0, Vec::new(), None::<Instant>);
        let others = self.others.iter().filter_map(|(id, name, ends)| {
            // A missing row belonged to a node that has stopped serving or has been dead for long.
            let node = seen.iter().find(|node| node.id == *id)?;
            Some((name, Self::state_of(node.applied > self.position, *ends, now)))
        });
        for (name, state) in others.chain(here) {
            match state {
                EnforcementState::Enforced => enforced_on += 1,
                EnforcementState::Down => down.push(Arc::clone(name)),
                EnforcementState::LeasedUntil(until) => next = Some(next.map_or(until, |next| next.min(until))),
            }
        }
        next.map_or(Ok((enforced_on, down)), Err)
    }

    /// The state of a node whose last lease without the event runs out at `lease_end`.
    pub fn state_of(is_applied: bool, lease_end: Instant, now: Instant) -> EnforcementState {
        if is_applied {
            EnforcementState::Enforced
        } else if now >= lease_end {
            EnforcementState::Down
        } else {
            EnforcementState::LeasedUntil(lease_end)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::LEASE;
    use crate::nodes::registry_snapshot::CLOCK_MARGIN;

    fn node(number: u128, renewals: u64, renewal_seen_at: Instant, applied: u64) -> RegistryEntry {
        RegistryEntry {
            id: Uuid::from_u128(number),
            name: format!("node-{number}").into(),
            renewals,
            renewal_seen_at,
            applied,
            keys: Arc::default(),
        }
    }

    fn here(state: EnforcementState) -> (Arc<str>, EnforcementState) {
        ("here".into(), state)
    }

    /// The result of a wait for position 7 that began with the registry `first`, once the registry is `seen`.
    fn settled(
        first: &[RegistryEntry],
        seen: &[RegistryEntry],
        now: Instant,
        state: EnforcementState,
    ) -> Result<(usize, Vec<String>), Instant> {
        let (name, state) = here(state);
        let wait = EnforcementWait::of(7, first, Some(Uuid::from_u128(9)));
        let names = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
        wait.outcome(seen, now, Some((&name, state))).map(|(number, down)| (number, names(down)))
    }

    #[test]
    fn a_node_is_counted_once_it_has_applied_the_event_itself() {
        let now = Instant::now();
        let end = now + LEASE + CLOCK_MARGIN;
        let at = |applied| vec![node(1, 3, now, applied)];
        assert_eq!(settled(&at(7), &at(7), now, EnforcementState::Enforced), Err(end));
        assert_eq!(settled(&at(7), &at(8), now, EnforcementState::Enforced), Ok((2, vec![])));
    }

    #[test]
    fn a_node_is_down_once_the_first_lease_seen_has_run_out_even_if_it_renews_later() {
        let now = Instant::now();
        let end = now + LEASE + CLOCK_MARGIN;
        let first = [node(1, 3, now, 0)];
        // The node continues and reads the log's head after each renewal, so its later verdicts include the event.
        let renewed = [node(1, 7, now + LEASE, 0)];
        let before = end.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_eq!(settled(&first, &renewed, before, EnforcementState::Enforced), Err(end));
        assert_eq!(settled(&first, &renewed, end, EnforcementState::Enforced), Ok((1, vec!["node-1".into()])));
    }

    #[test]
    fn a_node_that_is_already_dead_is_not_waited_for() {
        let now = Instant::now();
        let dead = [node(1, 3, now.checked_sub(LEASE + CLOCK_MARGIN).unwrap(), 0)];
        assert_eq!(settled(&dead, &dead, now, EnforcementState::Enforced), Ok((1, vec!["node-1".into()])));
    }

    #[test]
    fn a_node_that_has_left_or_joined_later_is_not_counted() {
        let now = Instant::now();
        let (left, joined) = (node(1, 3, now, 0), node(2, 1, now, 0));
        assert_eq!(settled(&[left], &[joined], now, EnforcementState::Enforced), Ok((1, vec![])));
    }

    #[test]
    fn this_node_is_judged_by_its_memory_and_not_by_its_row() {
        let now = Instant::now();
        let own = [node(9, 3, now, 0)];
        assert_eq!(settled(&own, &own, now, EnforcementState::Enforced), Ok((1, vec![])));
        assert_eq!(settled(&own, &own, now, EnforcementState::LeasedUntil(now + LEASE)), Err(now + LEASE));
        assert_eq!(settled(&own, &own, now, EnforcementState::Down), Ok((0, vec!["here".into()])));
    }
}
