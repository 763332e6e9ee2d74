//! An API key: the permissions of a service until a given time.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::permission::{Permission, Permissions};
use crate::values::ApiKeyName;

/// An event of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiKeyEvent {
    /// The key was created. Its secret is stored nowhere.
    #[serde(rename = "api_key.created")]
    Created {
        /// The name of the service.
        name: ApiKeyName,
        /// The permissions of the key.
        permissions: Vec<Permission>,
        /// The time at which the key expires.
        #[serde(with = "crate::leaf::micros")]
        expires_at: DateTime<Utc>,
    },
    /// The key was revoked.
    #[serde(rename = "api_key.revoked")]
    Revoked {},
}

/// A command to an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKeyCommand {
    /// Create the key.
    Create {
        /// The name of the service.
        name: ApiKeyName,
        /// The permissions of the key.
        permissions: Permissions,
        /// The time at which the key expires.
        expires_at: DateTime<Utc>,
    },
    /// Revoke the key. Has no effect on a revoked key.
    Revoke,
}

/// The refusal of a command to an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// The key was created before.
    #[error("the API key already exists")]
    AlreadyCreated,
    /// The key was never created.
    #[error("the API key does not exist")]
    NotFound,
}

/// The state of an API key, derived from its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApiKeyState {
    /// The key was never created.
    #[default]
    None,
    /// The key is in use until it expires.
    Live,
    /// The key was revoked.
    Revoked,
}

/// The aggregate of an API key.
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
            (ApiKeyCommand::Revoke, ApiKeyState::None) => Err(ApiKeyError::NotFound),
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
    fn a_key_is_created_once_and_revoked_permanently() {
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
        given::<ApiKey>([]).when(ApiKeyCommand::Revoke).refused(ApiKeyError::NotFound);
        given::<ApiKey>([]).when(create()).then([created()]);
        given::<ApiKey>([created()]).when(create()).refused(ApiKeyError::AlreadyCreated);
        given::<ApiKey>([created()]).when(ApiKeyCommand::Revoke).then([ApiKeyEvent::Revoked {}]);
        given::<ApiKey>([created(), ApiKeyEvent::Revoked {}]).when(ApiKeyCommand::Revoke).then([]);
    }
}
