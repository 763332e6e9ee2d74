//! `fulexo erasure check`: what is left of an erased person, in the database and in files.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fulexo_commands::{Remains, RemainsSearch};
use fulexo_domain::values::AccountId;
use fulexo_node::database::{connect, reason};
use memchr::memmem::Finder;
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::Output;
use super::process::block_on;
use super::progress::{Progress, grouped};
use super::table::{Table, TableColumn};
use super::target::Target;

/// The bytes of a file that are searched at a time.
const CHUNK: usize = 1 << 20;
/// The longest list of values, in bytes.
const MAX_VALUES: u64 = 1 << 20;

#[derive(Args)]
pub struct ErasureArgs {
    #[command(subcommand)]
    verb: ErasureVerb,
}

#[derive(Subcommand)]
enum ErasureVerb {
    /// Search for copies of an erased person's data.
    ///
    /// Reads every table and the planner's statistics for the account's id, where nothing of an erased account may be. With
    /// --values also for what you know of the person: addresses, names, IP addresses. With --files also in files, such as the
    /// data directory of PostgreSQL, dumps, exports and logs. Changes nothing. Exits with 1 if it finds anything.
    Check(ErasureCheckArgs),
}

#[derive(Args)]
struct ErasureCheckArgs {
    /// The id of the erased account.
    account: Uuid,
    /// Search for each line of this file, too; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
    /// Search for the values in this file, or in all files below this directory.
    #[arg(long, value_name = "PATH", requires = "values")]
    files: Vec<PathBuf>,
    /// Print the result as JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl ErasureArgs {
    pub fn run(self) -> Result<(), Failure> {
        match self.verb {
            ErasureVerb::Check(verb) => verb.run(),
        }
    }
}

/// The columns of the findings.
const COLUMNS: [TableColumn; 3] =
    [TableColumn::Elastic("place"), TableColumn::Text("found"), TableColumn::Number("times")];

impl ErasureCheckArgs {
    fn run(self) -> Result<(), Failure> {
        let url = self.target.database_url()?;
        let values = self.values.as_deref().map(values).transpose()?.unwrap_or_default();
        block_on(async {
            let pool = connect(&url, 2).await?;
            let unread = |error: sqlx::Error| Failure::Failed(format!("cannot read the database: {}", reason(&error)));
            let account = AccountId(self.account);
            let search = RemainsSearch::new(pool, account, values.clone()).await.map_err(unread)?;
            if !search.is_erased().await.map_err(unread)? {
                return Err(Failure::Failed(format!("the account {} was not erased", self.account)));
            }
            let tables: Vec<String> = search.tables().map(str::to_owned).collect();
            let mut found = Vec::new();
            let mut bar = Progress::of("tables", "check".to_owned(), 0);
            for (done, table) in (1..).zip(&tables) {
                found.extend(search.table(table).await.map_err(unread)?);
                bar.show(done, tables.len() as u64);
            }
            drop(bar);
            found.extend(search.statistics().await.map_err(unread)?);
            let mut findings: Vec<ErasureFinding> = found.into_iter().map(ErasureFinding::from).collect();
            let files = files(&self.files, &values, &mut findings)?;
            self.report(tables.len() as u64, files, &findings)
        })
    }

    fn report(&self, tables: u64, files: u64, findings: &[ErasureFinding]) -> Result<(), Failure> {
        let mut out = Output::new();
        if self.json {
            let found: Vec<_> = findings
                .iter()
                .map(|finding| json!({"place": finding.place, "kind": finding.kind, "times": finding.times}))
                .collect();
            out.line(json!({"account_id": self.account, "tables": tables, "files": files, "found": found}))?;
        } else if findings.is_empty() {
            let (tables, files) = (grouped(tables), grouped(files));
            out.line(format_args!("nothing is left in {tables} tables, the statistics and {files} files"))?;
        } else {
            let mut table = Table::new(&COLUMNS);
            for finding in findings {
                table.row([finding.place.clone(), finding.kind.to_owned(), grouped(finding.times)]);
            }
            out.table(&table, true)?;
        }
        match findings.len() {
            0 => Ok(()),
            1 => Err(Failure::Failed("something is left in 1 place".to_owned())),
            places => Err(Failure::Failed(format!("something is left in {places} places"))),
        }
    }
}

/// Something that is left, in a table or in a file.
struct ErasureFinding {
    place: String,
    kind: &'static str,
    times: u64,
}

impl From<Remains> for ErasureFinding {
    fn from(remains: Remains) -> Self {
        Self { place: remains.place, kind: remains.kind.as_str(), times: remains.rows }
    }
}

/// The lines of a file, or of standard input, without empty ones.
fn values(path: &Path) -> Result<Vec<Zeroizing<String>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(MAX_VALUES + 1).read_to_end(&mut bytes),
        false => File::open(path).and_then(|file| file.take(MAX_VALUES + 1).read_to_end(&mut bytes)),
    };
    let unread = |error: &dyn Display| Failure::Failed(format!("cannot read {}: {error}", path.display()));
    // Nothing is left out: a person would seem forgotten who is not.
    if read.map_err(|error| unread(&error))? as u64 > MAX_VALUES {
        return Err(Failure::Misused(format!(
            "--values: {} is longer than {} bytes. Split it, and check each part",
            path.display(),
            grouped(MAX_VALUES)
        )));
    }
    let text = str::from_utf8(&bytes).map_err(|error| unread(&error))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.map(|line| Zeroizing::new(line.to_owned())).collect();
    match lines.iter().find(|line| line.len() < 4) {
        Some(_) => {
            Err(Failure::Misused("--values: a value shorter than four bytes would be found everywhere".to_owned()))
        }
        None => Ok(lines),
    }
}

/// Searches the files below these paths, and returns their number. Symbolic links are not followed.
fn files(paths: &[PathBuf], values: &[Zeroizing<String>], findings: &mut Vec<ErasureFinding>) -> Result<u64, Failure> {
    let finders: Vec<_> = values.iter().map(|value| Finder::new(value.as_bytes())).collect();
    let (mut left, mut searched) = (paths.to_vec(), 0);
    while let Some(path) = left.pop() {
        let unread = |error: io::Error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
        let kind = match path.symlink_metadata() {
            Ok(kind) => kind,
            // A server at work removes files.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !paths.contains(&path) => continue,
            Err(error) => return Err(unread(error)),
        };
        if kind.is_dir() {
            for entry in path.read_dir().map_err(unread)? {
                left.push(entry.map_err(unread)?.path());
            }
        } else if kind.is_file() {
            let times = occurrences(&path, &finders).map_err(unread)?;
            if times > 0 {
                findings.push(ErasureFinding { place: path.display().to_string(), kind: "value", times });
            }
            searched += 1;
        }
    }
    Ok(searched)
}

/// The number of places in a file at which a value begins.
fn occurrences(path: &Path, finders: &[Finder<'_>]) -> io::Result<u64> {
    let longest = finders.iter().map(|finder| finder.needle().len()).max().unwrap_or_default();
    let mut file = File::open(path)?;
    let (mut window, mut times) = (Vec::with_capacity(CHUNK + longest), 0);
    loop {
        let before = window.len();
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut window)?;
        if read == 0 {
            return Ok(times);
        }
        for finder in finders {
            // What ends before the new part was counted with the part before.
            let from = before.saturating_sub(finder.needle().len().saturating_sub(1));
            times += finder.find_iter(window.get(from..).unwrap_or_default()).count() as u64;
        }
        let kept = window.len().min(longest.saturating_sub(1));
        window.drain(..window.len() - kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_once_wherever_it_lies_between_two_chunks() {
        let directory = std::env::temp_dir().join(format!("fulexo-occurrences-{}", std::process::id()));
        for at in [0, 1, CHUNK - 15, CHUNK - 9, CHUNK - 1, CHUNK, 2 * CHUNK - 3] {
            let mut content = vec![b'a'; 2 * CHUNK + 100];
            content[at..at + 15].copy_from_slice(b"ann@example.com");
            std::fs::write(&directory, &content).unwrap();
            let finders = [Finder::new("ann@example.com"), Finder::new("bob@example.com")];
            assert_eq!(occurrences(&directory, &finders).unwrap(), 1, "{at}");
        }
        std::fs::remove_file(&directory).unwrap();
    }
}
