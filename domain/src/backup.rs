//! A backup, as far as the log tells of it: it was taken, verified, restored. Each backup has a stream, whose id follows from its
//! manifest; the nil stream is for databases that were restored by other means. Nothing personal is here: no path, host or
//! recipient.
//!
//! A backup says nothing of itself: it was recorded as taken after the moment of which it is, or not at all. A verification or a
//! restore therefore presumes no other event.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Aggregate;
use crate::values::{BackupLabel, Epoch, Sha256Hex, TreeRoot};

/// The content of a backup, as its signed manifest tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupContent {
    /// The time before the first byte was read.
    #[serde(with = "crate::leaf::micros")]
    pub began_at: DateTime<Utc>,
    /// The length of its parts, in bytes.
    pub bytes: u64,
    /// The epoch of its log.
    pub epoch: Epoch,
    /// The SHA-256 of its manifest.
    pub manifest: Sha256Hex,
    /// Its name.
    pub name: BackupLabel,
    /// The number of events in it.
    pub position: u64,
    /// The root of the tree over them.
    pub root: TreeRoot,
}

impl BackupContent {
    /// Returns the id of the backup's stream: the first half of the SHA-256 of its manifest, as a UUIDv8.
    #[must_use]
    pub fn stream(&self) -> Uuid {
        uuid::Builder::from_custom_bytes(self.manifest.first_half()).into_uuid()
    }
}

/// A part of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPartKind {
    /// Everything but the wrapped keys.
    Database,
    /// The wrapped keys.
    Keys,
}

/// An encrypted file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPart {
    /// Its length, in bytes.
    pub length: u64,
    /// The part.
    pub part: BackupPartKind,
    /// Its SHA-256.
    pub sha256: Sha256Hex,
}

/// The kind of place in which a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPlace {
    /// A directory.
    Directory,
    /// A bucket of an S3-compatible store.
    S3,
}

/// A rung of the ladder that a verification climbs, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupRung {
    /// A trusted key has signed the manifest, under this name.
    Signature,
    /// Each part is the one that was signed.
    Checksums,
    /// Each part can be decrypted and read to its end.
    Format,
    /// A new server accepts it.
    Restore,
    /// Every event, stream and signature is sound, and the log is the one of a checkpoint kept outside.
    Log,
    /// A replay of the log leads to the same read models.
    ReadModels,
    /// The restored service works: a sealed field opens, an account logs in.
    Canary,
}

impl BackupRung {
    /// All rungs, the lowest first.
    pub const ALL: [Self; 7] =
        [Self::Signature, Self::Checksums, Self::Format, Self::Restore, Self::Log, Self::ReadModels, Self::Canary];

    /// The name in leaves and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Checksums => "checksums",
            Self::Format => "format",
            Self::Restore => "restore",
            Self::Log => "log",
            Self::ReadModels => "read-models",
            Self::Canary => "canary",
        }
    }
}

/// The verdict on a rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RungVerdict {
    /// It was climbed, and nothing was found.
    Passed,
    /// Something was found.
    Failed,
    /// It was not climbed, or not to its end.
    NotClimbed,
}

/// A rung, and the verdict on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungResult {
    /// The rung.
    pub rung: BackupRung,
    /// The verdict.
    pub verdict: RungVerdict,
}

/// The figures of a drill: a recovery from the backup, had the service been lost at this time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFigures {
    /// The number of events after the backup: they would be lost.
    pub lost_events: u64,
    /// The age of the backup, in milliseconds: what happened since would be lost.
    pub recovery_point_ms: u64,
    /// The goal for it.
    pub recovery_point_goal_ms: Option<u64>,
    /// The time that the recovery took, in milliseconds.
    pub recovery_time_ms: u64,
    /// The goal for it.
    pub recovery_time_goal_ms: Option<u64>,
}

/// An event of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupEvent {
    /// The backup was taken, and is whole.
    #[serde(rename = "backup.taken")]
    Taken {
        /// Its content.
        backup: BackupContent,
        /// Its parts.
        parts: Vec<BackupPart>,
        /// The kind of place in which it is kept.
        place: BackupPlace,
    },
    /// The backup was verified, with or without success.
    #[serde(rename = "backup.verified")]
    Verified {
        /// Its content.
        backup: BackupContent,
        /// The figures, if it was a drill.
        drill: Option<DrillFigures>,
        /// The kind of place in which it is kept.
        place: BackupPlace,
        /// The rungs, the lowest first.
        rungs: Vec<RungResult>,
    },
    /// The database was restored: a new epoch began.
    #[serde(rename = "backup.restored")]
    Restored {
        /// The content of the backup; `None` for a database that was restored by other means, such as to a point in time.
        backup: Option<BackupContent>,
        /// The epoch that began.
        epoch: Epoch,
        /// The number of erasures that were made again.
        erasures: u64,
        /// The number of events that were lost; `None` if nothing outside of the database could tell.
        lost: Option<u64>,
        /// The number of events that were restored: those of the epochs before.
        position: u64,
    },
}

impl BackupEvent {
    /// `true` if the event is a verification that climbed up to a restore at least, and found nothing.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        match self {
            Self::Verified { rungs, .. } => {
                let passed = |rung: BackupRung| {
                    rungs.iter().any(|result| result.rung == rung && result.verdict == RungVerdict::Passed)
                };
                passed(BackupRung::Restore) && !rungs.iter().any(|result| result.verdict == RungVerdict::Failed)
            }
            Self::Taken { .. } | Self::Restored { .. } => false,
        }
    }
}

/// A command to a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupCommand {
    /// Record that it was taken. Has no effect a second time.
    Take {
        /// Its content.
        backup: BackupContent,
        /// Its parts.
        parts: Vec<BackupPart>,
        /// The kind of place in which it is kept.
        place: BackupPlace,
    },
    /// Record a verification.
    Verify {
        /// Its content.
        backup: BackupContent,
        /// The figures, if it was a drill.
        drill: Option<DrillFigures>,
        /// The kind of place in which it is kept.
        place: BackupPlace,
        /// The rungs.
        rungs: Vec<RungResult>,
    },
    /// Record that a database was restored. Has no effect a second time in the same epoch.
    Restore {
        /// The content of the backup.
        backup: Option<BackupContent>,
        /// The epoch that began.
        epoch: Epoch,
        /// The number of erasures that were made again.
        erasures: u64,
        /// The number of events that were lost.
        lost: Option<u64>,
        /// The number of events that were restored.
        position: u64,
    },
}

impl BackupCommand {
    /// Returns the id of the stream that the command concerns.
    #[must_use]
    pub fn stream(&self) -> Uuid {
        match self {
            Self::Take { backup, .. } | Self::Verify { backup, .. } | Self::Restore { backup: Some(backup), .. } => {
                backup.stream()
            }
            Self::Restore { backup: None, .. } => Uuid::nil(),
        }
    }
}

/// The refusal of a command to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackupRefusal {
    /// The verification has no rungs, or not in their order.
    #[error("a verification has its rungs in their order, each once")]
    Rungs,
    /// The backup has no parts, or a part twice.
    #[error("a backup has its parts in their order, each once")]
    Parts,
}

/// The state of a backup, derived from its events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupState {
    is_taken: bool,
    /// The epochs that began with it.
    epochs: BTreeSet<String>,
}

/// The aggregate of a backup.
pub struct Backup;

impl Aggregate for Backup {
    const NAME: &'static str = "backup";
    type State = BackupState;
    type Command = BackupCommand;
    type Event = BackupEvent;
    type Error = BackupRefusal;

    fn handle_command(state: &BackupState, command: BackupCommand) -> Result<Vec<BackupEvent>, BackupRefusal> {
        Ok(match command {
            BackupCommand::Take { backup, parts, place } => {
                if parts.is_empty() || !parts.is_sorted_by(|one, next| one.part < next.part) {
                    return Err(BackupRefusal::Parts);
                }
                if state.is_taken { Vec::new() } else { vec![BackupEvent::Taken { backup, parts, place }] }
            }
            BackupCommand::Verify { backup, drill, place, rungs } => {
                let in_order = rungs.is_sorted_by(|one, next| one.rung < next.rung);
                if rungs.is_empty() || !in_order {
                    return Err(BackupRefusal::Rungs);
                }
                vec![BackupEvent::Verified { backup, drill, place, rungs }]
            }
            BackupCommand::Restore { backup, epoch, erasures, lost, position } => {
                if state.epochs.contains(&String::from(epoch)) {
                    Vec::new()
                } else {
                    vec![BackupEvent::Restored { backup, epoch, erasures, lost, position }]
                }
            }
        })
    }

    fn apply_event(mut state: BackupState, event: BackupEvent) -> BackupState {
        match event {
            BackupEvent::Taken { .. } => state.is_taken = true,
            BackupEvent::Verified { .. } => {}
            BackupEvent::Restored { epoch, .. } => {
                state.epochs.insert(epoch.into());
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn content() -> BackupContent {
        BackupContent {
            began_at: DateTime::from_timestamp(1_796_105_642, 0).unwrap(),
            bytes: 12,
            epoch: Epoch::from(Uuid::from_u128(1)),
            manifest: Sha256Hex::parse(&"c3".repeat(32)).unwrap(),
            name: BackupLabel::parse("20261201T061402Z-4711").unwrap(),
            position: 4711,
            root: TreeRoot::parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").unwrap(),
        }
    }

    fn parts() -> Vec<BackupPart> {
        let part = |part| BackupPart { length: 6, part, sha256: Sha256Hex::parse(&"0f".repeat(32)).unwrap() };
        vec![part(BackupPartKind::Database), part(BackupPartKind::Keys)]
    }

    fn take(parts: Vec<BackupPart>) -> BackupCommand {
        BackupCommand::Take { backup: content(), parts, place: BackupPlace::S3 }
    }

    fn verify(rungs: &[(BackupRung, RungVerdict)]) -> BackupCommand {
        let rungs = rungs.iter().map(|(rung, verdict)| RungResult { rung: *rung, verdict: *verdict }).collect();
        BackupCommand::Verify { backup: content(), drill: None, place: BackupPlace::S3, rungs }
    }

    fn restored(epoch: u128) -> (BackupCommand, BackupEvent) {
        let (backup, epoch) = (Some(content()), Epoch::from(Uuid::from_u128(epoch << 64)));
        let (erasures, lost, position) = (1, Some(3), 4711);
        (
            BackupCommand::Restore { backup: backup.clone(), epoch, erasures, lost, position },
            BackupEvent::Restored { backup, epoch, erasures, lost, position },
        )
    }

    #[test]
    fn a_backup_is_taken_once() {
        let taken = BackupEvent::Taken { backup: content(), parts: parts(), place: BackupPlace::S3 };
        given::<Backup>([]).when(take(parts())).then([taken.clone()]);
        given::<Backup>([taken]).when(take(parts())).then([]);
        given::<Backup>([]).when(take(Vec::new())).refused(BackupRefusal::Parts);
        let twice = [parts(), parts()].concat();
        given::<Backup>([]).when(take(twice)).refused(BackupRefusal::Parts);
    }

    #[test]
    fn a_verification_has_its_rungs_in_order() {
        use BackupRung::{Checksums, Signature};
        use RungVerdict::Passed;
        for rungs in [&[][..], &[(Checksums, Passed), (Signature, Passed)], &[(Signature, Passed), (Signature, Passed)]]
        {
            given::<Backup>([]).when(verify(rungs)).refused(BackupRefusal::Rungs);
        }
        let rungs = vec![RungResult { rung: Signature, verdict: Passed }];
        let verified = BackupEvent::Verified { backup: content(), drill: None, place: BackupPlace::S3, rungs };
        // Each is an event of its own.
        given::<Backup>([verified.clone()]).when(verify(&[(Signature, Passed)])).then([verified]);
    }

    #[test]
    fn a_verification_proves_a_backup_if_it_was_restored_and_nothing_was_found() {
        use BackupRung::{Checksums, Log, Restore};
        use RungVerdict::{Failed, NotClimbed, Passed};
        let is_proof = |rungs: &[(BackupRung, RungVerdict)]| {
            let events = Backup::handle_command(&BackupState::default(), verify(rungs)).unwrap();
            events.first().is_some_and(BackupEvent::is_proof)
        };
        assert!(is_proof(&[(Checksums, Passed), (Restore, Passed), (Log, NotClimbed)]));
        assert!(!is_proof(&[(Checksums, Passed), (Restore, NotClimbed)]));
        assert!(!is_proof(&[(Restore, Passed), (Log, Failed)]));
    }

    #[test]
    fn a_restore_is_recorded_once_per_epoch() {
        let ((first, first_event), (second, second_event)) = (restored(2), restored(3));
        given::<Backup>([]).when(first.clone()).then([first_event.clone()]);
        given::<Backup>([first_event.clone()]).when(first).then([]);
        given::<Backup>([first_event]).when(second).then([second_event]);
    }

    #[test]
    fn a_stream_follows_from_the_manifest() {
        let stream = content().stream();
        assert_eq!(stream.to_string(), "c3c3c3c3-c3c3-83c3-83c3-c3c3c3c3c3c3");
        assert_eq!(take(parts()).stream(), stream);
        let epoch = Epoch::from(Uuid::from_u128(1));
        let elsewhere = BackupCommand::Restore { backup: None, epoch, erasures: 0, lost: None, position: 1 };
        assert_eq!(elsewhere.stream(), Uuid::nil());
    }

    #[test]
    fn a_rung_has_one_name() {
        for rung in BackupRung::ALL {
            assert_eq!(serde_json::to_value(rung).unwrap(), rung.as_str());
        }
        assert!(BackupRung::ALL.is_sorted());
    }
}
