//! `fulexo audit proof` and `fulexo audit check`: one event, proven to whoever trusts the log's key.

use std::path::PathBuf;

use clap::Args;
use fulexo_domain::leaf;
use fulexo_projections::trail::TrailFault;
use fulexo_tlog::bundle::entries;
use fulexo_tlog::entry_proof::EntryProof;
use fulexo_tlog::proof::inclusion_ranges;
use fulexo_tlog::tile::{FULL_WIDTH, TileKind};
use serde_json::json;

use super::source::SourceArgs;
use super::trust::{Trust, TrustArgs, file};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::process::block_on;

#[derive(Args)]
pub struct ProofArgs {
    /// Prove the event at this position.
    position: u64,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Write the proof to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub struct CheckArgs {
    /// Verify the proof in this file.
    file: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
    /// Verify it for the leaf in this file. Needed if the proof has none in it.
    #[arg(long, value_name = "FILE")]
    leaf: Option<PathBuf>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
}

fn refused(fault: &TrailFault) -> Failure {
    Failure::Failed(format!("the log is not verified: {fault}"))
}

impl ProofArgs {
    pub fn run(self) -> Result<(), Failure> {
        let given = self.trust.given()?;
        block_on(async {
            let source = self.source.open().await?;
            let trust = Trust::of(given, &source).await?;
            let trusted =
                trust.verify(&source.checkpoint(trust.has_policy()).await?).map_err(|fault| refused(&fault))?;
            let size = trusted.checkpoint.size;
            let Some(ranges) = inclusion_ranges(self.position, size) else {
                return Err(Failure::Misused(format!("POSITION: the checkpoint covers {size} events")));
            };
            let damaged =
                || Failure::Failed("a part of the log is missing, or damaged: run `fulexo audit verify`".to_owned());
            let hashes = source.roots(&ranges, size).await?.ok_or_else(damaged)?;
            let bundle = TileKind::Entries.tile(self.position / u64::from(FULL_WIDTH), size).ok_or_else(damaged)?;
            let content = source.tile(bundle).await?.ok_or_else(damaged)?;
            let leaves = entries(&content, bundle.width).map_err(|_| damaged())?;
            let place = usize::try_from(self.position - bundle.positions().start).unwrap_or(usize::MAX);
            let leaf = leaves.get(place).ok_or_else(damaged)?.to_vec();
            let proof = EntryProof { extra: Some(leaf), index: self.position, hashes, checkpoint: trusted.note };
            // Nobody is given a proof that does not hold.
            proof.verify(proof.extra.as_deref().unwrap_or_default()).map_err(|_| damaged())?;
            match &self.out {
                Some(path) => std::fs::write(path, proof.to_string())
                    .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display()))),
                None => Output::new().line(proof.to_string().trim_end()),
            }
        })
    }
}

impl CheckArgs {
    pub fn run(self) -> Result<(), Failure> {
        let missing = || Failure::Misused("--key is missing: a proof does not say whom to trust".to_owned());
        let trust = self.trust.given()?.ok_or_else(missing)?;
        let unproven = |reason: String| Failure::Failed(format!("{}: {reason}", self.file.display()));
        let proof = EntryProof::parse(&file(&self.file)?).map_err(|error| unproven(error.to_string()))?;
        let leaf = match (&self.leaf, &proof.extra) {
            (Some(path), _) => file(path)?,
            (None, Some(leaf)) => leaf.clone(),
            (None, None) => return Err(Failure::Misused("--leaf is missing: the proof has no leaf in it".to_owned())),
        };
        let trusted =
            trust.verify(proof.checkpoint.to_string().as_bytes()).map_err(|fault| unproven(fault.to_string()))?;
        proof.verify(&leaf).map_err(|error| unproven(error.to_string()))?;
        if !leaf::is_canonical_json(&leaf) {
            return Err(unproven("the leaf is not in canonical form".to_owned()));
        }
        let event = leaf::read(proof.index, &leaf).map_err(|error| unproven(error.to_string()))?;
        let (origin, size) = (trusted.checkpoint.origin.as_str(), trusted.checkpoint.size);
        let mut out = Output::new();
        if self.json {
            let event: serde_json::Value =
                serde_json::from_slice(&leaf).map_err(|error| unproven(error.to_string()))?;
            let witnesses = trusted.witnesses;
            return out.line(json!({
                "verified": true, "origin": origin, "position": proof.index, "size": size, "witnesses": witnesses,
                "event": event,
            }));
        }
        out.line(format_args!("verified: event {} of {origin}, which had {size} events then", proof.index))?;
        if !trusted.witnesses.is_empty() {
            out.line(format_args!("cosigned by {}", trusted.witnesses.join(", ")))?;
        }
        out.line(format_args!("{}  {}", leaf::format_time(event.time), event.r#type))?;
        out.line(String::from_utf8_lossy(&leaf))
    }
}
