//! The failures of verbs and their exit codes.

use fulexo_database::chain;
use fulexo_node::config::ConfigErrors;

/// The failure of a verb.
pub enum Failure {
    /// A failed verb: exit code 1.
    Failed(String),
    /// A wrong configuration: exit code 2.
    Misconfigured(ConfigErrors),
    /// A wrong argument, by its name: exit code 2.
    Misused(String),
    /// A check that found something, which its report says: exit code 1.
    Findings,
    /// A check that could not be made: exit code 3. Without a text its report says why.
    Unchecked(Option<String>),
}

impl Failure {
    /// Returns the text, for a report that has to say why something was not checked.
    pub fn text(self) -> String {
        match self {
            Self::Failed(text) | Self::Misused(text) | Self::Unchecked(Some(text)) => text,
            Self::Misconfigured(errors) => errors.to_string(),
            Self::Findings | Self::Unchecked(None) => "a check was not made".to_owned(),
        }
    }

    /// The same failure with what the operator should know, too.
    pub fn with(self, hint: &str) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("{text}; {hint}")),
            Self::Misconfigured(_) | Self::Misused(_) | Self::Findings | Self::Unchecked(_) => self,
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Misconfigured(errors)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<fulexo_node::start_error::StartError> for Failure {
    fn from(error: fulexo_node::start_error::StartError) -> Self {
        Self::Failed(error.0)
    }
}

impl From<fulexo_dev_servers::ServerError> for Failure {
    fn from(error: fulexo_dev_servers::ServerError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(format!("the database: {}", chain(&error)))
    }
}
