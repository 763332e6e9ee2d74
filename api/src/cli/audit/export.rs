//! `fulexo audit export`: a copy of the log in the form of C2SP tlog-tiles, which public verifiers read. `lines` writes its
//! events in other forms.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fulexo_tlog::checkpoint::Checkpoint;
use fulexo_tlog::proof::{consistency_ranges, verify_consistency};
use fulexo_tlog::tile::{FULL_WIDTH, TileKind};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::lines::LinesArgs;
use super::source::{LogSource, SourceArgs};
use super::trust::{Trust, TrustArgs, file};
use super::verify::{paths, unexpected};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::process::block_on;
use crate::cli::progress::{Progress, grouped};

/// The tiles that are read ahead.
const AHEAD: usize = 8;

#[derive(Args)]
pub struct ExportArgs {
    /// Write the copy into this directory. With --format: read the log from here, as from TARGET.
    #[arg(required_unless_present = "format")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    lines: LinesArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print the result as JSON, for programs.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl ExportArgs {
    pub fn run(self) -> Result<(), Failure> {
        let given = self.trust.given()?;
        let Self { directory, source, lines, trust: _, json } = self;
        if let Some(format) = lines.format()? {
            // Without a directory the first argument is the target.
            let source = source.with_target(directory)?;
            return block_on(async { lines.run(format, source.open().await?, given).await });
        }
        let missing = || Failure::Misused("DIRECTORY is missing".to_owned());
        LogCopy { directory: directory.ok_or_else(missing)?, json }.run(&source, given)
    }
}

/// A copy that is written or extended.
struct LogCopy {
    directory: PathBuf,
    json: bool,
}

impl LogCopy {
    fn run(self, source: &SourceArgs, given: Option<Trust>) -> Result<(), Failure> {
        block_on(async {
            let source = source.open().await?;
            let trust = Trust::of(given, &source).await?;
            let began = Instant::now();
            let refused = |fault| Failure::Failed(format!("the log is not verified: {fault}"));
            let trusted = trust.verify(&source.checkpoint(trust.has_policy()).await?).map_err(refused)?;
            let size = trusted.checkpoint.size;
            self.is_copy_or_empty()?;
            let old = self.extends(&trust, &source, &trusted.checkpoint).await?;
            self.write("log.vkey", trust.log_key().map(ToString::to_string).unwrap_or_default().as_bytes())?;
            // The reader's own, once it is there: witnesses may have been added to it.
            if !self.directory.join("policy").exists() {
                self.write("policy", &policy(&trust))?;
            }
            self.write("README.md", readme(&trusted.checkpoint).as_bytes())?;
            let (written, bytes) = self.tiles(&source, size).await?;
            // What belonged to an older size alone.
            for path in unexpected(&self.directory, size)? {
                fs::remove_file(&path).map_err(|error| cannot(&path.display().to_string(), &error))?;
                // Empty now, unless another part of this tile is in it.
                let _ = path.parent().map(fs::remove_dir);
            }
            // The last file: until then the copy is the old one.
            self.write("checkpoint", trusted.note.to_string().as_bytes())?;
            let seconds = began.elapsed().as_secs_f64();
            let mut out = Output::new();
            if self.json {
                return out.line(json!({
                    "size": size, "extended_from": old, "files_written": written, "bytes_written": bytes,
                    "seconds": seconds,
                }));
            }
            let directory = self.directory.display();
            out.line(format_args!("{directory} has {} events of {}", grouped(size), trusted.checkpoint.origin))?;
            let megabytes = bytes as f64 / 1e6;
            out.line(format_args!("wrote {} files, {megabytes:.1} MB, in {seconds:.1} s", grouped(written)))
        })
    }

    /// Refuses a directory of somebody else's: an export removes what is not of the log.
    fn is_copy_or_empty(&self) -> Result<(), Failure> {
        let is_empty = fs::read_dir(&self.directory).map_or(true, |mut entries| entries.next().is_none());
        if is_empty || self.directory.join("log.vkey").exists() {
            return Ok(());
        }
        Err(Failure::Failed(format!("{} is not empty, and not a copy of a log", self.directory.display())))
    }

    /// The size of the copy that is there, from which the log was proven to continue; 0 if there is none.
    async fn extends(&self, trust: &Trust, source: &LogSource, new: &Checkpoint) -> Result<u64, Failure> {
        let path = self.directory.join("checkpoint");
        if !path.exists() {
            return Ok(0);
        }
        let refused = |reason: String| Failure::Failed(format!("{}: {reason}", self.directory.display()));
        let old = trust.verify(&file(&path)?).map_err(|fault| refused(fault.to_string()))?.checkpoint;
        let other = "the copy in it is of another log, or this log no longer begins with it";
        if old.size > new.size || old.origin != new.origin {
            return Err(refused(other.to_owned()));
        }
        let proof = match consistency_ranges(old.size, new.size) {
            Some(ranges) => source.roots(&ranges, new.size).await?,
            None => Some(Vec::new()),
        };
        let proof = proof.ok_or_else(|| refused("a tile of the log is missing".to_owned()))?;
        verify_consistency(old.size, old.root, new.size, new.root, &proof).map_err(|_| refused(other.to_owned()))?;
        Ok(old.size)
    }

    /// Writes the tiles that are not there. Returns how many, and their bytes.
    async fn tiles(&self, source: &LogSource, size: u64) -> Result<(u64, u64), Failure> {
        let all = size.div_ceil(u64::from(FULL_WIDTH));
        let mut progress = Progress::new("export".to_owned(), 0);
        // A file is there as a whole or not at all.
        let missing = paths(size).filter(|tile| !self.directory.join(tile.to_string()).exists());
        let reads = missing.map(|tile| {
            let source = source.clone();
            async move { (tile, source.tile(tile).await) }
        });
        let mut reads = stream::iter(reads).buffered(AHEAD);
        let (mut written, mut bytes) = (0, 0);
        while let Some((tile, content)) = reads.next().await {
            let missing = || Failure::Failed(format!("{tile} is missing from the log"));
            let content = content?.ok_or_else(missing)?;
            (written, bytes) = (written + 1, bytes + content.len() as u64);
            let (directory, name) = (self.directory.clone(), tile.to_string());
            let stored = spawn_blocking(move || store(&directory, &name, &content));
            stored
                .await
                .map_err(|error| Failure::Failed(error.to_string()))?
                .map_err(|error| cannot(&tile.to_string(), &error))?;
            if tile.kind == TileKind::Entries {
                progress.show(((tile.index + 1) * u64::from(FULL_WIDTH)).min(size), all * u64::from(FULL_WIDTH));
            }
        }
        Ok((written, bytes))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        store(&self.directory, name, content).map_err(|error| cannot(name, &error))
    }
}

fn cannot(name: &str, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {name}: {error}"))
}

/// Writes a file of the copy as a whole or not at all.
fn store(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Outside `tile/`, where everything belongs to the log.
    let part = directory.join(".part");
    let mut file = File::create(&part)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// The policy that was given, or the one that trusts the log's key alone.
fn policy(trust: &Trust) -> Vec<u8> {
    trust.policy_text.clone().unwrap_or_else(|| {
        trust.log_key().map(|key| format!("log {key}\nquorum none\n")).unwrap_or_default().into_bytes()
    })
}

fn readme(checkpoint: &Checkpoint) -> String {
    format!(
        "# The log {}\n\n\
         A copy of an append-only log in the form of C2SP tlog-tiles: `checkpoint` is signed by the key in `log.vkey`, `tile/` \
         has the hashes of the tree (RFC 6962), `tile/entries/` the events.\n\n\
         Verify it with a key that you have from elsewhere:\n\n\
         ```sh\n\
         fulexo audit verify . --key log.vkey\n\
         fsck --storage_url=file://$PWD/ --public_key=log.vkey --origin={} --ui=false\n\
         ```\n\n\
         The first command is Fulexo's, the second one that of Tessera (github.com/transparency-dev/tessera).\n",
        checkpoint.origin, checkpoint.origin
    )
}
