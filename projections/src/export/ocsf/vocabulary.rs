//! The words of OCSF that records use: versions, classes, severities, statuses, with their numbers and captions.

/// The name of the product, which is that of its vendor, too.
pub(super) const PRODUCT: &str = "Fulexo";

/// A version of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OcsfVersion {
    /// 1.8.0, of March 2026.
    #[default]
    V1_8,
    /// 1.9.0, which has classes for users and roles, and attestations.
    V1_9,
}

impl OcsfVersion {
    /// All versions.
    pub const ALL: [Self; 2] = [Self::V1_8, Self::V1_9];

    /// The version as records name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_8 => "1.8.0",
            Self::V1_9 => "1.9.0",
        }
    }

    /// The version of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == name)
    }
}

/// A class of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OcsfClass {
    /// A finding of the service about itself.
    DetectionFinding,
    /// A step of the response to an incident.
    IncidentFinding,
    /// A change of an account; in 1.9 superseded by user management.
    AccountChange,
    /// A step of a login, a session, or its end.
    Authentication,
    /// Privileges for a session.
    AuthorizeSession,
    /// A change of something other than an account.
    EntityManagement,
    /// A role granted or revoked; in 1.9 superseded by user management.
    UserAccess,
    /// A change of an account, its roles included. Since 1.9.
    UserManagement,
    /// A change of a role. Since 1.9.
    RoleManagement,
    /// Requests to the API.
    ApiActivity,
}

impl OcsfClass {
    /// The number of the class.
    #[must_use]
    pub const fn uid(self) -> u32 {
        match self {
            Self::DetectionFinding => 2004,
            Self::IncidentFinding => 2005,
            Self::AccountChange => 3001,
            Self::Authentication => 3002,
            Self::AuthorizeSession => 3003,
            Self::EntityManagement => 3004,
            Self::UserAccess => 3005,
            Self::UserManagement => 3007,
            Self::RoleManagement => 3008,
            Self::ApiActivity => 6003,
        }
    }

    /// The number of its category.
    #[must_use]
    pub const fn category_uid(self) -> u32 {
        self.uid() / 1_000
    }

    /// The caption.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DetectionFinding => "Detection Finding",
            Self::IncidentFinding => "Incident Finding",
            Self::AccountChange => "Account Change",
            Self::Authentication => "Authentication",
            Self::AuthorizeSession => "Authorize Session",
            Self::EntityManagement => "Entity Management",
            Self::UserAccess => "User Access Management",
            Self::UserManagement => "User Management",
            Self::RoleManagement => "Role Management",
            Self::ApiActivity => "API Activity",
        }
    }
}

/// An activity of a class: its number and its name. Number 99 is one that OCSF has no number for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OcsfActivity {
    /// The number.
    pub id: u32,
    /// The name.
    pub name: &'static str,
}

/// The severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OcsfSeverity {
    /// No action is needed.
    Informational,
    /// It may deserve a look.
    Low,
    /// It deserves a look.
    Medium,
    /// Somebody has to act.
    High,
    /// Somebody has to act at once.
    Critical,
}

impl OcsfSeverity {
    /// The number.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Informational => 1,
            Self::Low => 2,
            Self::Medium => 3,
            Self::High => 4,
            Self::Critical => 5,
        }
    }

    /// The caption.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}

/// The outcome of an activity, or the state of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OcsfStatus {
    /// It was done.
    Success,
    /// It was refused.
    Failure,
    /// The finding is over.
    Resolved,
    /// The incident is new.
    New,
    /// The incident is being worked on.
    InProgress,
    /// The incident is closed.
    Closed,
}

impl OcsfStatus {
    /// The number.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Success | Self::New => 1,
            Self::Failure | Self::InProgress => 2,
            Self::Resolved => 4,
            Self::Closed => 5,
        }
    }

    /// The caption.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Failure => "Failure",
            Self::Resolved => "Resolved",
            Self::New => "New",
            Self::InProgress => "In Progress",
            Self::Closed => "Closed",
        }
    }
}
