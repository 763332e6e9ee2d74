//! The keys of the service, as far as the log tells of them: which took the place of which, and which were destroyed. They have
//! a single stream, the nil one. No key is here: a label is a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Aggregate;
use crate::values::InvalidValue;

/// The purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPurpose {
    /// It wraps the keys of the vault.
    Encryption,
    /// It signs access tokens.
    Signing,
    /// It signs the log's checkpoints.
    Log,
}

impl KeyPurpose {
    /// All purposes.
    pub const ALL: [Self; 3] = [Self::Encryption, Self::Signing, Self::Log];

    /// Reads a purpose by its name.
    ///
    /// # Errors
    /// The purpose does not exist.
    pub fn parse(name: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|purpose| purpose.as_str() == name);
        known.ok_or(InvalidValue("must be encryption, signing or log"))
    }

    /// The name in leaves, tables and verbs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Signing => "signing",
            Self::Log => "log",
        }
    }
}

/// The name of a key: the id of one that wraps, the `kid` of one that signs tokens, the name and number of a log's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyLabel(String);

/// The longest label, in bytes: a log's name has 255, its number eight digits.
const MAX_LABEL: usize = 300;

impl KeyLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// It is empty or too long, or has white space or a control character.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let fits = |c: char| !c.is_whitespace() && !c.is_control();
        if text.is_empty() || text.len() > MAX_LABEL || !text.chars().all(fits) {
            return Err(InvalidValue("must have 1 to 300 bytes, without white space and control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyLabel {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl From<KeyLabel> for String {
    fn from(label: KeyLabel) -> Self {
        label.0
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event of the service's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyEvent {
    /// A key took the place of another: it wraps or signs from now on. The other still opens, or verifies.
    #[serde(rename = "key.rotated")]
    Rotated {
        /// The purpose of both.
        kind: KeyPurpose,
        /// The key before.
        from: KeyLabel,
        /// The key from now on.
        to: KeyLabel,
    },
    /// A key was removed wherever this service keeps it. What it wrapped opens no more, and what it signed is not accepted.
    #[serde(rename = "key.destroyed")]
    Destroyed {
        /// The purpose.
        kind: KeyPurpose,
        /// The key.
        id: KeyLabel,
    },
}

/// A command to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCommand {
    /// Put a key in the place of another.
    Rotate {
        /// The purpose of both.
        kind: KeyPurpose,
        /// The key before.
        from: KeyLabel,
        /// The key from now on.
        to: KeyLabel,
    },
    /// Record that a key was destroyed.
    Destroy {
        /// The purpose.
        kind: KeyPurpose,
        /// The key.
        id: KeyLabel,
    },
}

/// The refusal of a command to the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// The key is in use already.
    #[error("the key is in use already")]
    InUse,
    /// Another key is in use than the one to be replaced.
    #[error("another key is in use than the one to be replaced")]
    NotInUse,
    /// The key was destroyed.
    #[error("the key was destroyed")]
    Destroyed,
}

/// The keys in use, and those that were destroyed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyCustodyState {
    in_use: BTreeMap<KeyPurpose, KeyLabel>,
    destroyed: BTreeSet<(KeyPurpose, KeyLabel)>,
}

/// The aggregate of the service's keys.
pub struct KeyCustody;

impl Aggregate for KeyCustody {
    const NAME: &'static str = "key";
    type State = KeyCustodyState;
    type Command = KeyCommand;
    type Event = KeyEvent;
    type Error = KeyRefusal;

    fn handle_command(state: &KeyCustodyState, command: KeyCommand) -> Result<Vec<KeyEvent>, KeyRefusal> {
        let was_destroyed = |kind, id: &KeyLabel| state.destroyed.contains(&(kind, id.clone()));
        match command {
            KeyCommand::Rotate { kind, from, to } => {
                if from == to || state.in_use.get(&kind) == Some(&to) {
                    return Err(KeyRefusal::InUse);
                }
                if was_destroyed(kind, &to) {
                    return Err(KeyRefusal::Destroyed);
                }
                // Before the first rotation the log does not know which key is in use.
                if state.in_use.get(&kind).is_some_and(|in_use| *in_use != from) {
                    return Err(KeyRefusal::NotInUse);
                }
                Ok(vec![KeyEvent::Rotated { kind, from, to }])
            }
            KeyCommand::Destroy { kind, id } => {
                if state.in_use.get(&kind) == Some(&id) {
                    return Err(KeyRefusal::InUse);
                }
                if was_destroyed(kind, &id) {
                    return Err(KeyRefusal::Destroyed);
                }
                Ok(vec![KeyEvent::Destroyed { kind, id }])
            }
        }
    }

    fn apply_event(mut state: KeyCustodyState, event: KeyEvent) -> KeyCustodyState {
        match event {
            KeyEvent::Rotated { kind, from: _, to } => {
                state.in_use.insert(kind, to);
            }
            KeyEvent::Destroyed { kind, id } => {
                state.destroyed.insert((kind, id));
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    const KIND: KeyPurpose = KeyPurpose::Encryption;

    fn label(text: &str) -> KeyLabel {
        KeyLabel::parse(text).unwrap()
    }

    fn rotated(from: &str, to: &str) -> KeyEvent {
        KeyEvent::Rotated { kind: KIND, from: label(from), to: label(to) }
    }

    fn rotate(from: &str, to: &str) -> KeyCommand {
        KeyCommand::Rotate { kind: KIND, from: label(from), to: label(to) }
    }

    fn destroyed(id: &str) -> KeyEvent {
        KeyEvent::Destroyed { kind: KIND, id: label(id) }
    }

    fn destroy(id: &str) -> KeyCommand {
        KeyCommand::Destroy { kind: KIND, id: label(id) }
    }

    #[test]
    fn a_key_takes_the_place_of_the_one_in_use_and_of_no_other() {
        given::<KeyCustody>([]).when(rotate("a", "b")).then([rotated("a", "b")]);
        given::<KeyCustody>([rotated("a", "b")]).when(rotate("b", "c")).then([rotated("b", "c")]);
        given::<KeyCustody>([rotated("a", "b")]).when(rotate("a", "c")).refused(KeyRefusal::NotInUse);
        given::<KeyCustody>([rotated("a", "b")]).when(rotate("b", "b")).refused(KeyRefusal::InUse);
        given::<KeyCustody>([rotated("a", "b")]).when(rotate("a", "b")).refused(KeyRefusal::InUse);
        let signing = KeyCommand::Rotate { kind: KeyPurpose::Signing, from: label("x"), to: label("b") };
        let event = KeyEvent::Rotated { kind: KeyPurpose::Signing, from: label("x"), to: label("b") };
        given::<KeyCustody>([rotated("a", "b")]).when(signing).then([event]);
    }

    #[test]
    fn a_key_is_destroyed_once_and_not_while_it_is_in_use_and_never_returns() {
        given::<KeyCustody>([rotated("a", "b")]).when(destroy("a")).then([destroyed("a")]);
        given::<KeyCustody>([rotated("a", "b")]).when(destroy("b")).refused(KeyRefusal::InUse);
        given::<KeyCustody>([rotated("a", "b"), destroyed("a")]).when(destroy("a")).refused(KeyRefusal::Destroyed);
        given::<KeyCustody>([rotated("a", "b"), destroyed("a")]).when(rotate("b", "a")).refused(KeyRefusal::Destroyed);
    }

    #[test]
    fn a_label_has_no_white_space() {
        for sound in ["default", "2026-11-30", "auth.example.com/log+1a2b3c4d", "schlüssel"] {
            assert!(KeyLabel::parse(sound).is_ok(), "{sound:?}");
        }
        for bad in ["", "a b", "a\n", "a\u{7f}", "\u{2028}", &"a".repeat(301)] {
            assert!(KeyLabel::parse(bad).is_err(), "{bad:?}");
        }
    }
}
