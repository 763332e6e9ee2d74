//! An event as the log keeps it: the fact, and who, when, where in the log. How it becomes bytes is in `leaf`.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_aux::serde_introspection::serde_introspect;
use uuid::Uuid;

use crate::account::{AccountEvent, Initiator};
use crate::api_key::ApiKeyEvent;
use crate::authentication::AuthenticationEvent;
use crate::lockdown::LockdownEvent;
use crate::policy::PolicyEvent;
use crate::rate_limit::RateLimitEvent;
use crate::role::RoleEvent;
use crate::session::SessionEvent;

/// Any fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// About an account.
    Account(AccountEvent),
    /// About an attempt to log in.
    Authentication(AuthenticationEvent),
    /// About a session.
    Session(SessionEvent),
    /// About a role that administrators defined.
    Role(RoleEvent),
    /// About the security policy.
    Policy(PolicyEvent),
    /// About an API key.
    ApiKey(ApiKeyEvent),
    /// About requests refused for their number.
    RateLimit(RateLimitEvent),
    /// About a lockdown.
    Lockdown(LockdownEvent),
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

/// The wrong kind of event for what was asked.
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

/// Every type of event, by category: from the enums themselves.
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
    ]
    .concat()
});

impl Event {
    /// Every type of event, `<category>.<fact>`, by category.
    #[must_use]
    pub fn types() -> &'static [&'static str] {
        &TYPES
    }

    /// The kind of stream it belongs to.
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
        }
    }

    /// The version of its schema that is written today. Older ones decode for ever.
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
            | Self::Lockdown(_) => 1,
        }
    }

    /// The personal facts that belong to it and are sealed beside the log, in the order of their names.
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
                | AccountEvent::Reinstated {},
            )
            | Self::Authentication(AuthenticationEvent::LockLifted { .. })
            | Self::Session(SessionEvent::Revoked { .. })
            | Self::Role(_)
            | Self::Policy(PolicyEvent::Changed { .. })
            | Self::Lockdown(_)
            | Self::ApiKey(ApiKeyEvent::Revoked {}) => &[SealedField::Reason],
            Self::Account(
                AccountEvent::PasswordChanged { .. }
                | AccountEvent::SecondFactorEnrolmentStarted {}
                | AccountEvent::SecondFactorEnabled { .. }
                | AccountEvent::SecondFactorDisabled { by: Initiator::Owner }
                | AccountEvent::RecoveryCodesIssued { .. }
                | AccountEvent::RecoveryCodeUsed { .. }
                | AccountEvent::EmailVerified {}
                | AccountEvent::SessionsRevoked { .. },
            )
            | Self::ApiKey(ApiKeyEvent::Created { .. }) => &[],
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

    /// Whether it only notes what somebody else tried. Observations wait while state changes go first.
    #[must_use]
    pub const fn is_observation(&self) -> bool {
        matches!(self, Self::Authentication(AuthenticationEvent::Failed { .. }) | Self::RateLimit(_))
    }
}

/// A kind of stream; the first half of every event type's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// One stream an account.
    Account,
    /// One stream an account, and the nil stream for addresses nobody registered.
    Authentication,
    /// One stream a session.
    Session,
    /// One stream a role that administrators defined.
    Role,
    /// One stream, the nil one.
    Policy,
    /// One stream an API key.
    ApiKey,
    /// One stream, the nil one.
    RateLimit,
    /// One stream, the nil one.
    Lockdown,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 8] = [
        Self::Account,
        Self::Authentication,
        Self::Session,
        Self::Role,
        Self::Policy,
        Self::ApiKey,
        Self::RateLimit,
        Self::Lockdown,
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
        }
    }
}

/// A stream: the events of one aggregate, versions 1, 2, 3…
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// Its kind.
    pub category: Category,
    /// The aggregate's id.
    pub id: Uuid,
}

/// Who made it happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "ActorParts")]
pub enum Actor {
    /// Somebody logged in.
    Account {
        /// The account.
        id: Uuid,
    },
    /// A service, by its API key.
    ApiKey {
        /// The key.
        id: Uuid,
    },
    /// Somebody not logged in.
    Anonymous,
    /// Whoever runs the service, from its command line.
    Operator,
    /// The service itself.
    System,
}

/// An actor as it is read: in one go, where serde would first collect it to look for its tag.
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
    /// The name of its kind.
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

    /// Its id, when it has one.
    #[must_use]
    pub const fn id(&self) -> Option<Uuid> {
        match self {
            Self::Account { id } | Self::ApiKey { id } => Some(*id),
            Self::Anonymous | Self::Operator | Self::System => None,
        }
    }
}

/// A personal fact that is sealed beside the log, never in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedField {
    /// Which device, by its token's id.
    Device,
    /// The name to show.
    DisplayName,
    /// The e-mail address.
    Email,
    /// The client's address.
    Ip,
    /// Free text by an administrator.
    Reason,
    /// The client's own description of itself.
    UserAgent,
}

impl SealedField {
    /// The name in leaves.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::DisplayName => "display_name",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::Reason => "reason",
            Self::UserAgent => "user_agent",
        }
    }
}

/// What a leaf says of the personal facts sealed beside it: enough to prove that they are the ones, not what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedDigest {
    /// Commitment to the data key, base64url: GCM alone lets one ciphertext open under two keys.
    pub commitment: String,
    /// SHA-256 of nonce and ciphertext, base64url.
    pub digest: String,
    /// Which facts.
    pub fields: Vec<SealedField>,
}

/// An event in its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// 0, 1, 2… in commit order without gaps; also the index of its leaf in the tree.
    pub position: u64,
    /// UUIDv7.
    pub id: Uuid,
    /// Where it belongs.
    pub stream: Stream,
    /// Its number in the stream, from 1.
    pub version: u64,
    /// Whom it is about: the account, across all streams.
    pub subject: Option<Uuid>,
    /// Who made it happen.
    pub actor: Actor,
    /// The request that led to it.
    pub correlation: Uuid,
    /// The event that led to it.
    pub causation: Option<Uuid>,
    /// The policy it was decided under.
    pub policy_version: u32,
    /// Microseconds; never earlier than the event before it.
    pub recorded_at: DateTime<Utc>,
    /// Its type, as the leaf names it.
    pub event_type: Box<str>,
    /// What happened.
    pub event: Event,
    /// The personal facts sealed beside it.
    pub sealed: Vec<SealedDigest>,
}
