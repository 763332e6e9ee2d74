//! `fulexo openapi`: the document that clients are generated from.

use clap::Args;

use super::failure::Failure;
use super::output::Output;
use crate::routes;

#[derive(Args)]
pub struct Openapi {}

impl Openapi {
    pub fn run(self) -> Result<(), Failure> {
        // Sorted keys and a line a member: the committed copy is compared as text.
        let spec: serde_json::Value = serde_json::from_str(&routes::spec())
            .map_err(|error| Failure::Failed(format!("the document is no JSON: {error}")))?;
        Output::new().line(format_args!("{spec:#}"))
    }
}
