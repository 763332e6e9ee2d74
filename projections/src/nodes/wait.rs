//! Who enforces an event: the arithmetic of leases, without a clock or a database.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::SeenNode;

/// What a wait is about.
pub(super) struct Wait {
    position: u64,
    /// Every other node that may hold a lease without the event: its id, its name, when such a lease has run out.
    others: Vec<(Uuid, Arc<str>, Instant)>,
}

/// How a node stands to the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has applied it.
    Enforces,
    /// It may be judging without it, until then at most.
    Waits(Instant),
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
    /// latest. `here` is this node.
    pub fn settled(
        &self,
        seen: &[SeenNode],
        now: Instant,
        here: (&Arc<str>, Standing),
    ) -> Result<(usize, Vec<Arc<str>>), Instant> {
        let (mut enforced_on, mut down, mut next) = (0, Vec::new(), None::<Instant>);
        let others = self.others.iter().filter_map(|(id, name, ends)| {
            // A row that is gone is that of a node that has stopped serving, or of one that was dead for long.
            let node = seen.iter().find(|node| node.id == *id)?;
            Some((name, self.standing(node, *ends, now)))
        });
        for (name, standing) in others.chain([here]) {
            match standing {
                Standing::Enforces => enforced_on += 1,
                Standing::Down => down.push(Arc::clone(name)),
                Standing::Waits(until) => next = Some(next.map_or(until, |next| next.min(until))),
            }
        }
        next.map_or(Ok((enforced_on, down)), Err)
    }

    fn standing(&self, node: &SeenNode, ends: Instant, now: Instant) -> Standing {
        if node.applied > self.position {
            Standing::Enforces
        } else if now >= ends {
            Standing::Down
        } else {
            Standing::Waits(ends)
        }
    }
}
