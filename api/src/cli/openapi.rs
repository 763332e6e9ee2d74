//! `fulexo openapi`: prints the document from which clients are generated.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use crate::routes;

#[derive(Args)]
pub struct OpenapiArgs {}

impl OpenapiArgs {
    pub fn run(self) -> Result<(), Failure> {
        // Sorted keys and one member per line: the committed copy is compared as text.
        let spec: serde_json::Value = serde_json::from_str(routes::spec())
            .map_err(|error| Failure::Failed(format!("the document is not JSON: {error}")))?;
        Output::new().line(format_args!("{spec:#}"))
    }
}
