//! Who enforces an event: the arithmetic of leases, without a clock or a database.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::seen::SeenNode;

/// What a wait is about.
pub(super) struct Wait {
    position: u64,
    /// Every other node that may hold a lease without the event: its id, its name, when such a lease has run out.
    others: Vec<(Uuid, Arc<str>, Instant)>,
}

/// When a node enforces the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enforces {
    /// It has applied it.
    Now,
    /// It may be judging without it, until then at most.
    By(Instant),
    /// It judges nothing from memory before it has caught up.
    Down,
}

impl Wait {
    /// `seen` was asked for after the event was committed. Nodes that join later read the log's head after it, too.
    pub fn of(position: u64, seen: &[SeenNode], own: Option<Uuid>) -> Self {
        let others = seen.iter().filter(|node| Some(node.id) != own);
        Self { position, others: others.map(|node| (node.id, Arc::clone(&node.name), node.ends())).collect() }
    }

    /// How many enforce it, and who does not, once no node is to be waited for; otherwise when to look again at the
    /// latest. `here` is this node, if it is one: what runs beside them judges nobody.
    pub fn settled(
        &self,
        seen: &[SeenNode],
        now: Instant,
        here: Option<(&Arc<str>, Enforces)>,
    ) -> Result<(usize, Vec<Arc<str>>), Instant> {
        let (mut enforced_on, mut down, mut next) = (0, Vec::new(), None::<Instant>);
        let others = self.others.iter().filter_map(|(id, name, ends)| {
            // A row that is gone is that of a node that has stopped serving, or of one that was dead for long.
            let node = seen.iter().find(|node| node.id == *id)?;
            Some((name, Self::enforces(node.applied > self.position, *ends, now)))
        });
        for (name, enforces) in others.chain(here) {
            match enforces {
                Enforces::Now => enforced_on += 1,
                Enforces::Down => down.push(Arc::clone(name)),
                Enforces::By(until) => next = Some(next.map_or(until, |next| next.min(until))),
            }
        }
        next.map_or(Ok((enforced_on, down)), Err)
    }

    /// When a node enforces it whose last lease without it has run out then.
    pub fn enforces(is_applied: bool, ends: Instant, now: Instant) -> Enforces {
        if is_applied {
            Enforces::Now
        } else if now >= ends {
            Enforces::Down
        } else {
            Enforces::By(ends)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::LEASE;
    use crate::nodes::seen::MARGIN;

    fn node(number: u128, renewals: u64, since: Instant, applied: u64) -> SeenNode {
        SeenNode { id: Uuid::from_u128(number), name: format!("node-{number}").into(), renewals, since, applied }
    }

    fn here(enforces: Enforces) -> (Arc<str>, Enforces) {
        ("here".into(), enforces)
    }

    /// What comes of a wait for position 7 whose first look showed `first`, once the registry shows `seen`.
    fn settled(
        first: &[SeenNode],
        seen: &[SeenNode],
        now: Instant,
        enforces: Enforces,
    ) -> Result<(usize, Vec<String>), Instant> {
        let (name, enforces) = here(enforces);
        let wait = Wait::of(7, first, Some(Uuid::from_u128(9)));
        let names = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
        wait.settled(seen, now, Some((&name, enforces))).map(|(number, down)| (number, names(down)))
    }

    #[test]
    fn a_node_counts_once_it_has_applied_the_event_and_not_one_before() {
        let now = Instant::now();
        let end = now + LEASE + MARGIN;
        let at = |applied| vec![node(1, 3, now, applied)];
        assert_eq!(settled(&at(7), &at(7), now, Enforces::Now), Err(end));
        assert_eq!(settled(&at(7), &at(8), now, Enforces::Now), Ok((2, vec![])));
    }

    #[test]
    fn a_node_is_down_when_the_lease_that_was_seen_first_has_run_out_whatever_it_renews_since() {
        let now = Instant::now();
        let end = now + LEASE + MARGIN;
        let first = [node(1, 3, now, 0)];
        // It goes on, and reads the log's head after each renewal: what it judges from then on it judges with the event.
        let renewed = [node(1, 7, now + LEASE, 0)];
        let before = end.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_eq!(settled(&first, &renewed, before, Enforces::Now), Err(end));
        assert_eq!(settled(&first, &renewed, end, Enforces::Now), Ok((1, vec!["node-1".into()])));
    }

    #[test]
    fn one_that_was_seen_dead_before_is_not_waited_for() {
        let now = Instant::now();
        let dead = [node(1, 3, now.checked_sub(LEASE + MARGIN).unwrap(), 0)];
        assert_eq!(settled(&dead, &dead, now, Enforces::Now), Ok((1, vec!["node-1".into()])));
    }

    #[test]
    fn who_has_left_is_no_longer_counted_and_who_joined_since_is_not_yet() {
        let now = Instant::now();
        let (left, joined) = (node(1, 3, now, 0), node(2, 1, now, 0));
        assert_eq!(settled(&[left], &[joined], now, Enforces::Now), Ok((1, vec![])));
    }

    #[test]
    fn this_node_goes_by_its_memory_and_not_by_its_row() {
        let now = Instant::now();
        let own = [node(9, 3, now, 0)];
        assert_eq!(settled(&own, &own, now, Enforces::Now), Ok((1, vec![])));
        assert_eq!(settled(&own, &own, now, Enforces::By(now + LEASE)), Err(now + LEASE));
        assert_eq!(settled(&own, &own, now, Enforces::Down), Ok((0, vec!["here".into()])));
    }
}
