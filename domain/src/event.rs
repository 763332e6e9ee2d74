//! The events of the log, and their metadata: actor, subject, time and position. `leaf` encodes them as bytes.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_aux::serde_introspection::serde_introspect;
use uuid::Uuid;

use crate::account::{AccountEvent, Initiator};
use crate::api_key::ApiKeyEvent;
use crate::audit::AuditTrailEvent;
use crate::authentication::AuthenticationEvent;
use crate::backup::BackupEvent;
use crate::checkpoint::CheckpointEvent;
use crate::incident::IncidentEvent;
use crate::key::KeyEvent;
use crate::lockdown::LockdownEvent;
use crate::policy::PolicyEvent;
use crate::rate_limit::RateLimitEvent;
use crate::role::RoleEvent;
use crate::sealed_field::SealedField;
use crate::session::SessionEvent;

/// An event of any category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An event of an account.
    Account(AccountEvent),
    /// An event of a login attempt.
    Authentication(AuthenticationEvent),
    /// An event of a session.
    Session(SessionEvent),
    /// An event of a custom role.
    Role(RoleEvent),
    /// An event of the security policy.
    Policy(PolicyEvent),
    /// An event of an API key.
    ApiKey(ApiKeyEvent),
    /// An event of a rate limit.
    RateLimit(RateLimitEvent),
    /// An event of a lockdown.
    Lockdown(LockdownEvent),
    /// An event of the log's checkpoints.
    Checkpoint(CheckpointEvent),
    /// An event of the use of the audit trail.
    Audit(AuditTrailEvent),
    /// An event of the service's keys.
    Key(KeyEvent),
    /// An event of an incident.
    Incident(IncidentEvent),
    /// An event of a backup.
    Backup(BackupEvent),
}

impl From<AccountEvent> for Event {
    fn from(event: AccountEvent) -> Self {
        Self::Account(event)
    }
}

impl From<AuthenticationEvent> for Event {
    fn from(event: AuthenticationEvent) -> Self {
        Self::Authentication(event)
    }
}

impl From<SessionEvent> for Event {
    fn from(event: SessionEvent) -> Self {
        Self::Session(event)
    }
}

impl From<RoleEvent> for Event {
    fn from(event: RoleEvent) -> Self {
        Self::Role(event)
    }
}

impl From<PolicyEvent> for Event {
    fn from(event: PolicyEvent) -> Self {
        Self::Policy(event)
    }
}

impl From<ApiKeyEvent> for Event {
    fn from(event: ApiKeyEvent) -> Self {
        Self::ApiKey(event)
    }
}

impl From<RateLimitEvent> for Event {
    fn from(event: RateLimitEvent) -> Self {
        Self::RateLimit(event)
    }
}

impl From<LockdownEvent> for Event {
    fn from(event: LockdownEvent) -> Self {
        Self::Lockdown(event)
    }
}

impl From<CheckpointEvent> for Event {
    fn from(event: CheckpointEvent) -> Self {
        Self::Checkpoint(event)
    }
}

impl From<AuditTrailEvent> for Event {
    fn from(event: AuditTrailEvent) -> Self {
        Self::Audit(event)
    }
}

impl From<KeyEvent> for Event {
    fn from(event: KeyEvent) -> Self {
        Self::Key(event)
    }
}

impl From<IncidentEvent> for Event {
    fn from(event: IncidentEvent) -> Self {
        Self::Incident(event)
    }
}

impl From<BackupEvent> for Event {
    fn from(event: BackupEvent) -> Self {
        Self::Backup(event)
    }
}

/// An event of a category other than the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event belongs to another category")]
pub struct CategoryMismatch;

impl TryFrom<Event> for AccountEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Account(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for AuthenticationEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Authentication(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for SessionEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Session(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for RoleEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Role(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for PolicyEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Policy(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for ApiKeyEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::ApiKey(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for LockdownEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Lockdown(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for KeyEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Key(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for IncidentEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Incident(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

impl TryFrom<Event> for BackupEvent {
    type Error = CategoryMismatch;
    fn try_from(event: Event) -> Result<Self, CategoryMismatch> {
        if let Event::Backup(event) = event { Ok(event) } else { Err(CategoryMismatch) }
    }
}

/// All event types, by category, derived from the enums.
static TYPES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    [
        serde_introspect::<AccountEvent>(),
        serde_introspect::<AuthenticationEvent>(),
        serde_introspect::<SessionEvent>(),
        serde_introspect::<RoleEvent>(),
        serde_introspect::<PolicyEvent>(),
        serde_introspect::<ApiKeyEvent>(),
        serde_introspect::<RateLimitEvent>(),
        serde_introspect::<LockdownEvent>(),
        serde_introspect::<CheckpointEvent>(),
        serde_introspect::<AuditTrailEvent>(),
        serde_introspect::<KeyEvent>(),
        serde_introspect::<IncidentEvent>(),
        serde_introspect::<BackupEvent>(),
    ]
    .concat()
});

impl Event {
    /// Returns all event types (`<category>.<fact>`), by category.
    #[must_use]
    pub fn types() -> &'static [&'static str] {
        &TYPES
    }

    /// The category of the event's stream.
    #[must_use]
    pub const fn category(&self) -> Category {
        match self {
            Self::Account(_) => Category::Account,
            Self::Authentication(_) => Category::Authentication,
            Self::Session(_) => Category::Session,
            Self::Role(_) => Category::Role,
            Self::Policy(_) => Category::Policy,
            Self::ApiKey(_) => Category::ApiKey,
            Self::RateLimit(_) => Category::RateLimit,
            Self::Lockdown(_) => Category::Lockdown,
            Self::Checkpoint(_) => Category::Checkpoint,
            Self::Audit(_) => Category::Audit,
            Self::Key(_) => Category::Key,
            Self::Incident(_) => Category::Incident,
            Self::Backup(_) => Category::Backup,
        }
    }

    /// The schema version in which this build writes the event. Earlier versions remain readable.
    #[must_use]
    pub const fn schema_version(&self) -> u32 {
        match self {
            Self::Account(_)
            | Self::Authentication(_)
            | Self::Session(_)
            | Self::Role(_)
            | Self::Policy(_)
            | Self::ApiKey(_)
            | Self::RateLimit(_)
            | Self::Lockdown(_)
            | Self::Checkpoint(_)
            | Self::Audit(_)
            | Self::Key(_)
            | Self::Incident(_)
            | Self::Backup(_) => 1,
        }
    }

    /// The personal fields of the event, which are sealed alongside the log, in the order of their names.
    #[must_use]
    pub const fn sealed_fields(&self) -> &'static [SealedField] {
        match self {
            Self::Account(AccountEvent::Registered {} | AccountEvent::ProfileChanged {}) => {
                &[SealedField::DisplayName, SealedField::Email]
            }
            Self::Account(
                AccountEvent::RoleGranted { .. }
                | AccountEvent::RoleRevoked { .. }
                | AccountEvent::PasswordExpired {}
                | AccountEvent::SecondFactorDisabled { by: Initiator::Admin }
                | AccountEvent::Suspended {}
                | AccountEvent::Reinstated {}
                | AccountEvent::Erased { .. },
            )
            | Self::Authentication(AuthenticationEvent::LockLifted { .. })
            | Self::Session(SessionEvent::Revoked { .. })
            | Self::Role(_)
            | Self::Policy(PolicyEvent::Changed { .. })
            | Self::Lockdown(_)
            | Self::ApiKey(ApiKeyEvent::Revoked {})
            | Self::Audit(AuditTrailEvent::Unsealed { .. } | AuditTrailEvent::AddressSearched { .. })
            | Self::Incident(IncidentEvent::ContainmentStarted { .. }) => &[SealedField::Reason],
            Self::Account(
                AccountEvent::PasswordChanged { .. }
                | AccountEvent::SecondFactorEnrolmentStarted {}
                | AccountEvent::SecondFactorEnabled { .. }
                | AccountEvent::SecondFactorDisabled { by: Initiator::Owner }
                | AccountEvent::RecoveryCodesIssued { .. }
                | AccountEvent::RecoveryCodeUsed { .. }
                | AccountEvent::EmailVerified {}
                | AccountEvent::SessionsRevoked { .. }
                | AccountEvent::ErasureStarted { .. }
                | AccountEvent::ErasureWithdrawn {}
                | AccountEvent::ErasureCompleted { .. },
            )
            | Self::ApiKey(ApiKeyEvent::Created { .. })
            | Self::Audit(AuditTrailEvent::Exported { .. })
            | Self::Checkpoint(_)
            | Self::Key(_)
            | Self::Backup(_)
            | Self::Incident(IncidentEvent::Contained { .. } | IncidentEvent::Triaged { .. }) => &[],
            Self::Incident(IncidentEvent::Opened { .. }) => &[SealedField::Summary],
            Self::Incident(IncidentEvent::Closed {}) => &[SealedField::Lessons],
            Self::Incident(
                IncidentEvent::Eradicated {} | IncidentEvent::Recovered {} | IncidentEvent::Noted { .. },
            ) => &[SealedField::Note],
            Self::Authentication(AuthenticationEvent::Succeeded { .. } | AuthenticationEvent::NewDeviceSeen { .. })
            | Self::Session(SessionEvent::Started { .. }) => {
                &[SealedField::Device, SealedField::Ip, SealedField::UserAgent]
            }
            Self::Authentication(
                AuthenticationEvent::Failed { .. }
                | AuthenticationEvent::SecondFactorRequired { .. }
                | AuthenticationEvent::PasswordChangeRequired { .. }
                | AuthenticationEvent::PasswordResetRequested {}
                | AuthenticationEvent::PasswordResetRefused { .. },
            )
            | Self::Session(SessionEvent::Refreshed { .. } | SessionEvent::FingerprintMismatched { .. }) => {
                &[SealedField::Ip, SealedField::UserAgent]
            }
            Self::Authentication(
                AuthenticationEvent::LockedOut { .. }
                | AuthenticationEvent::Confirmed { .. }
                | AuthenticationEvent::DeviceForgotten { .. },
            )
            | Self::Session(
                SessionEvent::RefreshReused { .. } | SessionEvent::Elevated { .. } | SessionEvent::Expired {},
            ) => &[],
            Self::RateLimit(RateLimitEvent::Violated { .. }) => &[SealedField::Ip],
        }
    }

    /// `true` if the event only reports an attempt of a third party. State changes take precedence over observations.
    #[must_use]
    pub const fn is_observation(&self) -> bool {
        matches!(self, Self::Authentication(AuthenticationEvent::Failed { .. }) | Self::RateLimit(_))
    }
}

/// A category of streams; the first half of the name of each event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// One stream per account.
    Account,
    /// One stream per account, and the nil stream for unregistered addresses.
    Authentication,
    /// One stream per session.
    Session,
    /// One stream per custom role.
    Role,
    /// A single stream, the nil one.
    Policy,
    /// One stream per API key.
    ApiKey,
    /// A single stream, the nil one.
    RateLimit,
    /// A single stream, the nil one.
    Lockdown,
    /// A single stream, the nil one.
    Checkpoint,
    /// One stream per event whose sealed fields were disclosed, with its id, per search for an address, and per copy of events.
    Audit,
    /// A single stream, the nil one.
    Key,
    /// One stream per incident.
    Incident,
    /// One stream per backup, and the nil stream for databases that were restored by other means.
    Backup,
}

impl Category {
    /// All categories.
    pub const ALL: [Self; 13] = [
        Self::Account,
        Self::Authentication,
        Self::Session,
        Self::Role,
        Self::Policy,
        Self::ApiKey,
        Self::RateLimit,
        Self::Lockdown,
        Self::Checkpoint,
        Self::Audit,
        Self::Key,
        Self::Incident,
        Self::Backup,
    ];

    /// The name in leaves, tables and subjects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Authentication => "authentication",
            Self::Session => "session",
            Self::Role => "role",
            Self::Policy => "policy",
            Self::ApiKey => "api_key",
            Self::RateLimit => "rate_limit",
            Self::Lockdown => "lockdown",
            Self::Checkpoint => "checkpoint",
            Self::Audit => "audit",
            Self::Key => "key",
            Self::Incident => "incident",
            Self::Backup => "backup",
        }
    }
}

/// The identity of a stream: the events of one aggregate, versions 1, 2, 3…
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The category.
    pub category: Category,
    /// The id of the aggregate.
    pub id: Uuid,
}

/// The actor who caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "ActorParts")]
pub enum Actor {
    /// A logged-in account.
    Account {
        /// The account.
        id: Uuid,
    },
    /// A service with an API key.
    ApiKey {
        /// The key.
        id: Uuid,
    },
    /// A caller who is not logged in.
    Anonymous,
    /// An operator, on the command line.
    Operator,
    /// The service itself.
    System,
}

/// The serialised form of an actor. Serde reads it in one pass; a tagged enum would buffer it first to find the tag.
#[derive(Deserialize)]
struct ActorParts {
    kind: ActorKind,
    id: Option<Uuid>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActorKind {
    Account,
    ApiKey,
    Anonymous,
    Operator,
    System,
}

impl TryFrom<ActorParts> for Actor {
    type Error = &'static str;

    fn try_from(ActorParts { kind, id }: ActorParts) -> Result<Self, &'static str> {
        let id = || id.ok_or("missing field `id`");
        Ok(match kind {
            ActorKind::Account => Self::Account { id: id()? },
            ActorKind::ApiKey => Self::ApiKey { id: id()? },
            ActorKind::Anonymous => Self::Anonymous,
            ActorKind::Operator => Self::Operator,
            ActorKind::System => Self::System,
        })
    }
}

impl Actor {
    /// The name of the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Account { .. } => "account",
            Self::ApiKey { .. } => "api_key",
            Self::Anonymous => "anonymous",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }

    /// The id, if the actor has one.
    #[must_use]
    pub const fn id(&self) -> Option<Uuid> {
        match self {
            Self::Account { id } | Self::ApiKey { id } => Some(*id),
            Self::Anonymous | Self::Operator | Self::System => None,
        }
    }
}

/// The digest, in a leaf, of the personal fields sealed alongside it: it proves their identity without revealing them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedDigest {
    /// The commitment to the data key, in base64url. GCM alone lets one ciphertext open under two keys.
    pub commitment: String,
    /// The SHA-256 of nonce and ciphertext, in base64url.
    pub digest: String,
    /// The sealed fields.
    pub fields: Vec<SealedField>,
}

/// An event at its position in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// The position: 0, 1, 2… in commit order, without gaps; also the index of the leaf in the tree.
    pub position: u64,
    /// The id of the event, a UUIDv7.
    pub id: Uuid,
    /// The stream.
    pub stream: Stream,
    /// The version of the stream after this event, starting with 1.
    pub version: u64,
    /// The account concerned, in every stream.
    pub subject: Option<Uuid>,
    /// The actor who caused the event.
    pub actor: Actor,
    /// The id of the request that caused the event.
    pub correlation: Uuid,
    /// The id of the event that caused this one.
    pub causation: Option<Uuid>,
    /// The version of the policy in force at the decision.
    pub policy_version: u32,
    /// The time of the commit, in microseconds; never before that of the preceding event.
    pub recorded_at: DateTime<Utc>,
    /// The type, as in the leaf.
    pub event_type: Box<str>,
    /// The event itself.
    pub event: Event,
    /// The digests of the personal fields sealed alongside it.
    pub sealed: Vec<SealedDigest>,
}
