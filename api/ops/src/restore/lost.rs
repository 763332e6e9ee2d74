//! The events that a restore loses: those that the log had after the moment of the backup, as copies of it tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fulexo_domain::leaf;
use fulexo_tlog::hash::TreeHash;
use fulexo_tlog::tree::GrowingTree;
use uuid::Uuid;

/// The types of the events that take something away, or narrow it. Without them it is there again.
pub const WITHDRAWALS: [&str; 10] = [
    "account.password_changed",
    "account.role_revoked",
    "account.second_factor_enabled",
    "account.sessions_revoked",
    "account.suspended",
    "api_key.revoked",
    "lockdown.started",
    "policy.changed",
    "role.permissions_changed",
    "role.retired",
];
/// The events that say that a person was erased, or asked for it.
const ERASED: &str = "account.erased";
const ERASURE_STARTED: &str = "account.erasure_started";
const ERASURE_WITHDRAWN: &str = "account.erasure_withdrawn";
/// The most revocations that are named. The list in the file has all of them.
const MAX_NAMED: usize = 100;

/// An event that took something away.
#[derive(Clone, Debug, PartialEq)]
pub struct LostRevocation {
    /// The position that it had.
    pub position: u64,
    /// Its type.
    pub kind: String,
    /// The id of the account, the API key or the role.
    pub stream: Uuid,
}

/// The events that are lost, as they are read: counted, and written to a file. The memory grows with the number of those who were
/// erased, or had something taken away, and not with that of events.
pub struct LostEvents {
    tree: GrowingTree,
    restored: u64,
    last: Option<TreeHash>,
    /// The roots at the sizes of interest that are beyond the restored log.
    roots: BTreeMap<u64, Option<TreeHash>>,
    counts: BTreeMap<String, u64>,
    revocations: Vec<LostRevocation>,
    /// The number of those of each account, API key and role.
    revoked: BTreeMap<Uuid, u64>,
    erased: BTreeSet<Uuid>,
    asked: BTreeSet<Uuid>,
    list: Option<BufWriter<File>>,
}

impl LostEvents {
    /// Begins behind the restored log: its tree, and the hash of its last leaf. `sizes` are those at which others know the root.
    /// The list is written to a new file.
    ///
    /// # Errors
    /// If the file cannot be created, or is there.
    pub fn begin(
        tree: GrowingTree,
        last: Option<TreeHash>,
        sizes: impl IntoIterator<Item = u64>,
        list: Option<&Path>,
    ) -> io::Result<Self> {
        let open = |path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(BufWriter::new);
        let restored = tree.size();
        let roots = sizes.into_iter().filter(|size| *size > restored).map(|size| (size, None)).collect();
        Ok(Self {
            tree,
            restored,
            last,
            roots,
            counts: BTreeMap::new(),
            revocations: Vec::new(),
            revoked: BTreeMap::new(),
            erased: BTreeSet::new(),
            asked: BTreeSet::new(),
            list: list.map(open).transpose()?,
        })
    }

    /// Returns the position of the next event: every one below it is known.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.tree.size()
    }

    /// Returns the root over everything that is known.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.tree.root()
    }

    /// Returns the hash of the last leaf that is known.
    #[must_use]
    pub const fn last(&self) -> Option<TreeHash> {
        self.last
    }

    /// Adds the next event.
    ///
    /// # Errors
    /// If the bytes are no leaf of this log, or the list cannot be written.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let position = self.next();
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let text = std::str::from_utf8(bytes).map_err(|_| invalid(format!("the event {position} is not text")))?;
        let event = leaf::read(position, bytes).map_err(|error| invalid(error.to_string()))?;
        let kind = event.r#type.to_owned();
        match kind.as_str() {
            ERASED => {
                self.erased.insert(event.stream);
            }
            ERASURE_STARTED => {
                self.asked.insert(event.stream);
            }
            ERASURE_WITHDRAWN => {
                self.asked.remove(&event.stream);
            }
            withdrawal if WITHDRAWALS.contains(&withdrawal) => {
                *self.revoked.entry(event.stream).or_default() += 1;
                if self.revocations.len() < MAX_NAMED {
                    self.revocations.push(LostRevocation { position, kind: kind.clone(), stream: event.stream });
                }
            }
            _ => {}
        }
        *self.counts.entry(kind).or_default() += 1;
        if let Some(list) = &mut self.list {
            // A leaf is JSON already.
            writeln!(list, "{{\"position\":{position},\"event\":{text}}}")?;
        }
        let hash = TreeHash::of_leaf(bytes);
        self.tree.push(hash);
        self.last = Some(hash);
        let (size, root) = (self.next(), self.tree.root());
        if let Some(known) = self.roots.get_mut(&size) {
            *known = Some(root);
        }
        Ok(())
    }

    /// Writes the list to the disk.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(list) = &mut self.list else { return Ok(()) };
        list.flush()?;
        list.get_ref().sync_all()
    }

    /// Returns the root at a size of interest; `None` if it is not known.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<TreeHash> {
        self.roots.get(&size).copied().flatten()
    }

    /// Returns the number of events in the restored log.
    #[must_use]
    pub const fn restored(&self) -> u64 {
        self.restored
    }

    /// Returns the number of lost events by their type.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Returns the first events that took something away, and the number of all. Those who were erased have nothing to take away.
    #[must_use]
    pub fn revocations(&self) -> (Vec<&LostRevocation>, u64) {
        let stays = |stream: &Uuid| !self.erased.contains(stream);
        let named = self.revocations.iter().filter(|revocation| stays(&revocation.stream)).collect();
        (named, self.revoked.iter().filter(|(stream, _)| stays(stream)).map(|(_, count)| count).sum())
    }

    /// Returns those who were erased.
    #[must_use]
    pub const fn erased(&self) -> &BTreeSet<Uuid> {
        &self.erased
    }

    /// Returns those who asked for their erasure and were not erased yet.
    pub fn asked(&self) -> impl Iterator<Item = &Uuid> {
        self.asked.difference(&self.erased)
    }
}
