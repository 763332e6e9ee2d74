//! `fulexo sbom`: prints the bill of materials of this program.

use chrono::DateTime;
use clap::Args;
use fulexo_ops::sbom::to_cyclonedx;
use fulexo_ops::scan::dependency_list::DependencyList;

use crate::cli::failure::Failure;
use crate::cli::output::Output;

#[derive(Args)]
pub struct SbomArgs {}

impl SbomArgs {
    pub fn run(self) -> Result<(), Failure> {
        let made_at = match std::env::var("SOURCE_DATE_EPOCH") {
            Err(_) => None,
            Ok(seconds) if seconds.is_empty() => None,
            Ok(seconds) => {
                let time = seconds.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
                Some(time.ok_or_else(|| Failure::Misused("SOURCE_DATE_EPOCH is not a number of seconds".to_owned()))?)
            }
        };
        let list = DependencyList::of_this_program().map_err(|error| Failure::Unchecked(Some(error)))?;
        let document = to_cyclonedx(&list, env!("CARGO_PKG_VERSION"), made_at);
        Output::new().line(format_args!("{document:#}"))
    }
}
