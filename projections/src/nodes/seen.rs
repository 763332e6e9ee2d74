//! The registry of nodes as it was seen: whose lease may run, and whose row has served its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::gate::LEASE;

/// Two monotonic clocks differ by no more than this over the length of a lease.
pub(super) const MARGIN: Duration = Duration::from_millis(100);
/// Rows of the dead are kept so long, to be named.
const KEPT: Duration = Duration::from_secs(3_600);
/// And no more of them than this: a node may die again and again.
const MOST_DEAD: usize = 100;

/// A row of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenNode {
    pub id: Uuid,
    pub name: Arc<str>,
    pub renewals: u64,
    /// When this renewal was first seen here: not before it was committed.
    pub since: Instant,
    pub applied: u64,
}

impl SeenNode {
    /// When a lease from the renewal that was seen has run out, wherever it is held.
    pub fn ends(&self) -> Instant {
        self.since + LEASE + MARGIN
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.ends()
    }
}

/// The dead whose rows are in the way: those dead for long, and the longest dead of too many.
pub(super) fn swept(nodes: &[SeenNode], now: Instant) -> impl Iterator<Item = &SeenNode> {
    let mut dead: Vec<&SeenNode> = nodes.iter().filter(|node| node.is_over(now)).collect();
    dead.sort_by_key(|node| std::cmp::Reverse(node.since));
    dead.into_iter()
        .enumerate()
        .filter(move |(place, node)| *place >= MOST_DEAD || now.duration_since(node.since) >= KEPT)
        .map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_dead_go_after_an_hour_and_the_longest_dead_of_more_than_a_hundred() {
        let start = Instant::now();
        let node = |number: u64, since| SeenNode {
            id: Uuid::from_u128(number.into()),
            name: "node".into(),
            renewals: number,
            since,
            applied: 0,
        };
        let ids = |nodes: &[SeenNode], now| swept(nodes, now).map(|node| node.renewals).collect::<Vec<_>>();
        let now = start + KEPT;
        let nodes = [node(1, start), node(2, start + Duration::from_secs(1)), node(3, now)];
        assert_eq!(ids(&nodes, now), [1], "the second was there a second longer, and the third lives");

        let many: Vec<SeenNode> = (0..103).map(|number| node(number, start + Duration::from_millis(number))).collect();
        let dead = start + LEASE + MARGIN + Duration::from_secs(1);
        assert_eq!(ids(&many, dead), [2, 1, 0]);
        let living = start + Duration::from_secs(1);
        assert!(ids(&many, living).is_empty(), "however many live");
    }
}
