//! The RustSec advisory database, as its git repository has it, or packed as GitHub and `git archive` pack it (`.tar.gz`).
//!
//! Reads all of it or nothing: a database with one advisory that cannot be read has perhaps lost the one that matters.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use rustsec::Advisory;

use super::archive::ArchiveReader;

/// The largest advisory, in bytes.
const ADVISORY_BOUND: u64 = 256 << 10;
/// The most advisories.
const ADVISORIES_BOUND: usize = 50_000;
/// The most bytes of all advisories together.
const TOTAL_BOUND: usize = 128 << 20;
/// The file that says when the database was fetched.
const DATE_FILE: &str = "snapshot-date";
/// The age from which a database is stale.
const STALE_AFTER: TimeDelta = TimeDelta::days(7);
/// The time by which clocks and time zones may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::days(1);

/// The advisories of a database, and its date.
#[derive(Debug)]
pub struct AdvisoryDatabase {
    /// The advisories of crates, by package. Drafts and withdrawn ones are left out.
    pub by_package: BTreeMap<String, Vec<Advisory>>,
    /// The number of advisories, withdrawn ones included.
    pub count: usize,
    /// The date of the snapshot.
    pub date: SnapshotDate,
}

/// The date of a snapshot: the newest that the database has.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SnapshotDate {
    /// The time.
    pub at: DateTime<Utc>,
    /// The origin of the date.
    pub origin: DateOrigin,
}

/// The origin of a snapshot's date.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DateOrigin {
    /// The newest advisory. The database may have been fetched later.
    NewestAdvisory,
    /// The newest entry of the archive, which has the time of the commit.
    ArchiveEntry,
    /// The file `snapshot-date`.
    DateFile,
}

impl DateOrigin {
    /// Returns a description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewestAdvisory => "its newest advisory",
            Self::ArchiveEntry => "its archive",
            Self::DateFile => "its file snapshot-date",
        }
    }
}

/// A database that is not used.
#[derive(Debug, PartialEq)]
pub enum DatabaseFault {
    /// It is no database of RustSec, or has no advisory: the wrong thing was named.
    WrongKind(String),
    /// It cannot be read, or a part of it cannot.
    Unreadable(String),
}

impl SnapshotDate {
    /// Returns the reason for which a database of this date does not speak for today.
    #[must_use]
    pub fn objection(&self, now: DateTime<Utc>) -> Option<String> {
        let (day, origin) = (self.at.date_naive(), self.origin.as_str());
        if self.at > now + CLOCK_TOLERANCE {
            return Some(format!(
                "the advisory database is of {day} (by {origin}), which is in the future: correct the clock or the database"
            ));
        }
        let age = (now - self.at).num_days();
        (now - self.at > STALE_AFTER).then(|| {
            let limit = STALE_AFTER.num_days();
            format!("the advisory database is stale: of {day} (by {origin}), {age} days old. Fetch one of the last {limit} days")
        })
    }
}

impl AdvisoryDatabase {
    /// Opens a database: a directory, or a file `.tar.gz`.
    ///
    /// # Errors
    /// [`DatabaseFault`].
    pub fn open(path: &Path) -> Result<Self, DatabaseFault> {
        let shown = path.display();
        let about = fs::metadata(path).map_err(|error| unreadable(format!("cannot read {shown}: {error}")))?;
        let mut collected = Collected::default();
        if about.is_dir() {
            collected.read_directory(path)?;
        } else if !about.is_file() {
            return Err(DatabaseFault::WrongKind(format!("{shown} is neither a directory nor a file")));
        } else {
            collected.read_archive(path).map_err(|fault| match fault {
                DatabaseFault::WrongKind(text) => DatabaseFault::WrongKind(format!("{shown} {text}")),
                DatabaseFault::Unreadable(text) => DatabaseFault::Unreadable(format!("{shown} {text}")),
            })?;
        }
        let wrong = |what: &str| {
            DatabaseFault::WrongKind(format!("{shown} {what}. Name a copy of https://github.com/rustsec/advisory-db"))
        };
        if !collected.has_crates {
            return Err(wrong("is not a RustSec advisory database: it has no folder `crates`"));
        }
        let Some(date) = collected.date else { return Err(wrong("has no advisory")) };
        Ok(Self { by_package: collected.by_package, count: collected.ids.len(), date })
    }
}

/// The part of a database that was read so far.
#[derive(Default)]
struct Collected {
    by_package: BTreeMap<String, Vec<Advisory>>,
    /// The file of each advisory.
    ids: BTreeMap<String, String>,
    bytes: usize,
    has_crates: bool,
    /// The newest date, once there is an advisory.
    date: Option<SnapshotDate>,
    dates: Vec<SnapshotDate>,
}

impl Collected {
    fn read_directory(&mut self, root: &Path) -> Result<(), DatabaseFault> {
        let crates = root.join("crates");
        self.has_crates = crates.is_dir();
        if !self.has_crates {
            return Ok(());
        }
        let date_file = root.join(DATE_FILE);
        // Before it is opened: a pipe would be waited for.
        match fs::metadata(&date_file) {
            Ok(about) if !about.is_file() => return Err(unreadable(format!("{} is not a file", date_file.display()))),
            Ok(_) => {
                let file = File::open(&date_file).map_err(io_fault(DATE_FILE))?;
                self.add_date_file(&bounded(file, ADVISORY_BOUND).map_err(io_fault(DATE_FILE))?)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_fault(DATE_FILE)(error)),
        }
        for folder in sorted(&crates)? {
            if !is_plain(&folder)?.is_dir() {
                continue;
            }
            for file in sorted(&folder)? {
                if !is_plain(&file)?.is_file() {
                    continue;
                }
                let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
                let opened = File::open(&file).map_err(io_fault(&path))?;
                let content = bounded(opened, ADVISORY_BOUND + 1).map_err(io_fault(&path))?;
                let size = content.len() as u64;
                self.add(&path, if size > ADVISORY_BOUND { Err(size) } else { Ok(content) })?;
            }
        }
        self.settle_date();
        Ok(())
    }

    /// Reads an archive, whose files are in one folder or in none.
    fn read_archive(&mut self, path: &Path) -> Result<(), DatabaseFault> {
        let mut file = File::open(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        let mut magic = Vec::new();
        (&mut file).take(2).read_to_end(&mut magic).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        if magic != [0x1f, 0x8b] {
            return Err(DatabaseFault::WrongKind("is neither a directory nor a .tar.gz".to_owned()));
        }
        file.rewind().map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        let mut archive = ArchiveReader::new(BufReader::new(file), ADVISORY_BOUND);
        while let Some(entry) = archive.next_file().map_err(unreadable)? {
            if let Some(at) = entry.changed_at {
                self.dates.push(SnapshotDate { at, origin: DateOrigin::ArchiveEntry });
                // Only the newest matters, and there may be many.
                self.keep_newest();
            }
            let inside = if entry.path.starts_with("crates/") || entry.path == DATE_FILE {
                entry.path.as_str()
            } else {
                entry.path.split_once('/').map_or("", |(_, inside)| inside)
            };
            if inside == DATE_FILE {
                let content = entry.content.map_err(|_| unreadable(format!("has a {DATE_FILE} that is too large")))?;
                self.add_date_file(&content)?;
            } else if inside.starts_with("crates/") {
                self.has_crates = true;
                self.add(inside, entry.content)?;
            }
        }
        self.settle_date();
        Ok(())
    }

    /// Adds a file below `crates/`: `crates/PACKAGE/ID.md`. Others are left out.
    fn add(&mut self, path: &str, content: Result<Vec<u8>, u64>) -> Result<(), DatabaseFault> {
        let ["crates", package, file] = path.split('/').collect::<Vec<_>>()[..] else { return Ok(()) };
        let Some(id) = file.strip_suffix(".md") else { return Ok(()) };
        let fault = |text: String| unreadable(format!("the advisory {} {text}", path.escape_debug()));
        let content = content.map_err(|_| fault(format!("is larger than {} KiB", ADVISORY_BOUND >> 10)))?;
        self.bytes += content.len();
        if self.bytes > TOTAL_BOUND || self.ids.len() >= ADVISORIES_BOUND {
            return Err(unreadable("the advisories are too many".to_owned()));
        }
        let text = String::from_utf8(content).map_err(|_| fault("is not UTF-8".to_owned()))?;
        let text = text.replace("\r\n", "\n");
        // The parser takes the beginning for granted, and a draft has no number.
        if !text.starts_with("```toml") {
            return Err(fault("does not begin with ```toml".to_owned()));
        }
        let advisory: Advisory = text.parse().map_err(|error| fault(format!("cannot be read: {error}")))?;
        if advisory.id().as_str() != id || advisory.metadata.package.as_str() != package {
            return Err(fault(format!("says that it is {} of {}", advisory.id(), advisory.metadata.package)));
        }
        if advisory.id().is_placeholder() {
            return Ok(());
        }
        if let Some(other) = self.ids.insert(id.to_owned(), path.to_owned()) {
            return Err(fault(format!("is in the database twice: {other}")));
        }
        let date = advisory.date();
        let day = || NaiveDate::from_ymd_opt(i32::try_from(date.year()).ok()?, date.month(), date.day());
        let at = day().ok_or_else(|| fault("has no date".to_owned()))?.and_time(chrono::NaiveTime::MIN).and_utc();
        self.dates.push(SnapshotDate { at, origin: DateOrigin::NewestAdvisory });
        self.keep_newest();
        if !advisory.withdrawn() {
            self.by_package.entry(package.to_owned()).or_default().push(advisory);
        }
        Ok(())
    }

    fn add_date_file(&mut self, content: &[u8]) -> Result<(), DatabaseFault> {
        let text = std::str::from_utf8(content).unwrap_or_default().trim();
        let time = text.parse::<DateTime<Utc>>().ok();
        let day = || Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_time(chrono::NaiveTime::MIN).and_utc());
        let at = time.or_else(day).ok_or_else(|| {
            unreadable(format!(
                "the file {DATE_FILE} of the advisory database has no date such as 2026-12-01T06:00:00Z"
            ))
        })?;
        self.dates.push(SnapshotDate { at, origin: DateOrigin::DateFile });
        self.keep_newest();
        Ok(())
    }

    fn keep_newest(&mut self) {
        let newest = self.dates.iter().max().copied();
        self.dates = newest.into_iter().collect();
    }

    fn settle_date(&mut self) {
        self.date = if self.ids.is_empty() { None } else { self.dates.first().copied() };
    }
}

fn unreadable(text: String) -> DatabaseFault {
    DatabaseFault::Unreadable(text)
}

fn io_fault(path: &str) -> impl Fn(std::io::Error) -> DatabaseFault {
    move |error| unreadable(format!("{path} of the advisory database cannot be read: {error}"))
}

fn bounded(file: File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most).read_to_end(&mut content)?;
    Ok(content)
}

/// Returns what a path is, if it is no link: those of a database would lead out of it.
fn is_plain(path: &Path) -> Result<fs::FileType, DatabaseFault> {
    let shown = path.display().to_string();
    let about = fs::symlink_metadata(path).map_err(io_fault(&shown))?.file_type();
    if about.is_symlink() {
        return Err(unreadable(format!("the advisory database has a link: {shown}")));
    }
    Ok(about)
}

/// Lists a folder, so that the same fault is named each time.
fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>, DatabaseFault> {
    let shown = folder.display().to_string();
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_fault(&shown))? {
        paths.push(entry.map_err(io_fault(&shown))?.path());
        if paths.len() > ADVISORIES_BOUND {
            return Err(unreadable(format!("{shown} has too many entries")));
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(at: &str) -> SnapshotDate {
        SnapshotDate { at: at.parse().unwrap(), origin: DateOrigin::DateFile }
    }

    #[test]
    fn a_database_is_stale_after_seven_days_and_not_believed_if_it_is_of_tomorrow() {
        let now = "2026-12-01T12:00:00Z".parse().unwrap();
        assert_eq!(date("2026-11-24T12:00:00Z").objection(now), None);
        assert!(date("2026-11-24T11:59:59Z").objection(now).unwrap().contains("stale"));
        assert_eq!(date("2026-12-02T00:00:00Z").objection(now), None, "another time zone");
        assert!(date("2026-12-03T00:00:00Z").objection(now).unwrap().contains("in the future"));
    }

    #[test]
    fn text_of_several_bytes_where_the_front_matter_should_begin_is_refused() {
        // rustsec cuts the text for its own refusal at byte 20.
        let mut collected = Collected::default();
        let refused = collected.add("crates/a/RUSTSEC-2026-0001.md", Ok("ééééééééééééééé".repeat(9).into_bytes()));
        assert!(matches!(refused, Err(DatabaseFault::Unreadable(text)) if text.contains("RUSTSEC-2026-0001.md")));
    }
}
