//! An API key: what a service may do by itself, until when.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::permission::{Permission, Permissions};
use crate::values::ApiKeyName;

/// What happened to an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiKeyEvent {
    /// It exists from here on; its secret is nowhere.
    #[serde(rename = "api_key.created")]
    Created {
        /// Which service it is for.
        name: ApiKeyName,
        /// What it may do.
        permissions: Vec<Permission>,
        /// It ends then.
        #[serde(with = "crate::leaf::micros")]
        expires_at: DateTime<Utc>,
    },
    /// It is worth nothing from here on.
    #[serde(rename = "api_key.revoked")]
    Revoked {},
}

/// What is asked of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKeyCommand {
    /// Make it.
    Create {
        /// Which service it is for.
        name: ApiKeyName,
        /// What it may do.
        permissions: Permissions,
        /// When it ends.
        expires_at: DateTime<Utc>,
    },
    /// End it. Ending it again records nothing.
    Revoke,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// Made before.
    #[error("the API key was made already")]
    AlreadyCreated,
    /// Never made.
    #[error("there is no such API key")]
    Unknown,
}

/// An API key as its events leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiKeyState {
    /// Never made.
    #[default]
    None,
    /// In use, until it expires.
    Live,
    /// Worth nothing.
    Revoked,
}

/// The aggregate.
pub struct ApiKey;

impl Aggregate for ApiKey {
    const NAME: &'static str = "api_key";
    type State = ApiKeyState;
    type Command = ApiKeyCommand;
    type Event = ApiKeyEvent;
    type Error = ApiKeyError;

    fn handle_command(state: &ApiKeyState, command: ApiKeyCommand) -> Result<Vec<ApiKeyEvent>, ApiKeyError> {
        match (command, state) {
            (ApiKeyCommand::Create { name, permissions, expires_at }, ApiKeyState::None) => {
                Ok(vec![ApiKeyEvent::Created { name, permissions: permissions.iter().collect(), expires_at }])
            }
            (ApiKeyCommand::Create { .. }, ApiKeyState::Live | ApiKeyState::Revoked) => {
                Err(ApiKeyError::AlreadyCreated)
            }
            (ApiKeyCommand::Revoke, ApiKeyState::None) => Err(ApiKeyError::Unknown),
            (ApiKeyCommand::Revoke, ApiKeyState::Live) => Ok(vec![ApiKeyEvent::Revoked {}]),
            (ApiKeyCommand::Revoke, ApiKeyState::Revoked) => Ok(vec![]),
        }
    }

    fn apply_event(_: ApiKeyState, event: ApiKeyEvent) -> ApiKeyState {
        match event {
            ApiKeyEvent::Created { .. } => ApiKeyState::Live,
            ApiKeyEvent::Revoked {} => ApiKeyState::Revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    #[test]
    fn a_key_is_made_once_and_revoked_for_ever() {
        let create = || ApiKeyCommand::Create {
            name: ApiKeyName::parse("billing").unwrap(),
            permissions: Permissions::of(&[Permission::TokensIntrospect]),
            expires_at: DateTime::UNIX_EPOCH,
        };
        let created = || ApiKeyEvent::Created {
            name: ApiKeyName::parse("billing").unwrap(),
            permissions: vec![Permission::TokensIntrospect],
            expires_at: DateTime::UNIX_EPOCH,
        };
        given::<ApiKey>([]).when(ApiKeyCommand::Revoke).refused(ApiKeyError::Unknown);
        given::<ApiKey>([]).when(create()).then([created()]);
        given::<ApiKey>([created()]).when(create()).refused(ApiKeyError::AlreadyCreated);
        given::<ApiKey>([created()]).when(ApiKeyCommand::Revoke).then([ApiKeyEvent::Revoked {}]);
        given::<ApiKey>([created(), ApiKeyEvent::Revoked {}]).when(ApiKeyCommand::Revoke).then([]);
    }
}
