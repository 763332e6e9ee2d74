//! The ways in which a verb fails, and the exit codes that they lead to.

use fulexo_node::config::ConfigErrors;

/// Why a verb did not do its job.
pub enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    Misconfigured(ConfigErrors),
    /// Exit code 2: an argument by its name, and what is wrong with it.
    Misused(String),
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
        Self::Failed(format!("the database: {error}"))
    }
}
