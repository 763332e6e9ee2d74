//! `fulexo vulnerability-scan` and `fulexo sbom`: by databases of our own in the form of RustSec's, about packages that the
//! program really has.

mod hostile;
mod list;
mod services;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use flate2::Compression;
use flate2::write::GzEncoder;
use fulexo_ops::clock;
use fulexo_tests::{Program, own_dir};
use serde_json::Value;

/// A package that the program is built of, and its version.
fn package() -> (String, String) {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let block = lock.split("[[package]]").find(|block| block.contains("\nname = \"serde_json\"\n")).unwrap();
    let version = block.split("version = \"").nth(1).unwrap().split('"').next().unwrap();
    ("serde_json".to_owned(), version.to_owned())
}

/// Returns a directory of this test.
fn folder() -> PathBuf {
    own_dir().path().to_owned()
}

/// A day, some days before today.
fn days_ago(days: i64) -> String {
    (clock::now() - TimeDelta::days(days)).format("%Y-%m-%d").to_string()
}

/// An advisory in the form of the database.
pub struct Written {
    pub id: &'static str,
    package: String,
    date: String,
    /// Requirements of versions.
    patched: String,
    /// Further lines of the table `advisory`.
    more: &'static str,
}

impl Written {
    /// An advisory of today about a package that the program has, patched in a version that nobody has.
    pub fn new() -> Self {
        let patched = "\">= 999.0.0\"".to_owned();
        Self { id: "RUSTSEC-2026-9001", package: package().0, date: days_ago(0), patched, more: "" }
    }

    fn path(&self) -> String {
        format!("crates/{}/{}.md", self.package, self.id)
    }

    fn text(&self) -> String {
        let Self { id, package, date, patched, more } = self;
        format!(
            "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{package}\"\ndate = \"{date}\"\n{more}\n[versions]\npatched = [{patched}]\n```\n\n# Parses süßes nothing\n\nA description.\n"
        )
    }

    /// Writes it into a database, which it creates.
    pub fn write(&self, database: &Path) {
        put(database, &self.path(), self.text().as_bytes());
    }
}

fn put(folder: &Path, path: &str, content: &[u8]) {
    let file = folder.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

/// Creates a database with one advisory.
fn database(advisory: &Written) -> PathBuf {
    let folder = folder();
    advisory.write(&folder);
    folder
}

/// Writes a file of exceptions.
pub fn exceptions(entries: &str) -> String {
    let file = folder().join("exceptions.toml");
    fs::write(&file, format!("[advisories]\nignore = [{entries}]\n")).unwrap();
    file.display().to_string()
}

/// The exit code, the report and the text on standard error of a scan.
struct Scanned {
    code: i32,
    report: Value,
    errors: String,
}

impl Scanned {
    fn check(&self, id: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap_or_else(|| panic!("no report: {}", self.errors));
        checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}: {:#}", self.report))
    }

    fn reason(&self, id: &str) -> &str {
        self.check(id)["reason"].as_str().unwrap_or_else(|| panic!("{id} was checked: {:#}", self.report))
    }
}

/// Scans with these arguments, without services, and without exceptions unless they are given.
fn scan(database: Option<&Path>, more: &[&str]) -> Scanned {
    let none = exceptions("");
    let database = database.map(|path| path.display().to_string());
    let mut arguments = vec!["vulnerability-scan", "--dependencies-only", "--json"];
    if let Some(database) = &database {
        arguments.extend(["--database", database]);
    }
    if !more.contains(&"--exceptions") {
        arguments.extend(["--exceptions", &none]);
    }
    arguments.extend(more);
    run(&arguments, &BTreeMap::new())
}

fn run(arguments: &[&str], env: &BTreeMap<String, String>) -> Scanned {
    let ended = Program::start(arguments, env).wait();
    let report = serde_json::from_str(&ended.said).unwrap_or_default();
    Scanned { code: ended.status.code().unwrap(), report, errors: ended.errors }
}

/// Packs files as `tar.gz`, each with its type and the time of its entry.
fn packed(entries: &[(&str, u8, &[u8])], at: i64) -> Vec<u8> {
    let mut archive = GzEncoder::new(Vec::new(), Compression::fast());
    for (path, kind, content) in entries {
        archive.write_all(&header(path, *kind, content.len(), at)).unwrap();
        archive.write_all(content).unwrap();
        archive.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()]).unwrap();
    }
    archive.write_all(&[0; 1024]).unwrap();
    archive.finish().unwrap()
}

/// The head of an entry (POSIX ustar).
fn header(path: &str, kind: u8, size: usize, at: i64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(format!("{at:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// Writes an archive into a directory of its own.
fn archive(bytes: &[u8]) -> PathBuf {
    let file = folder().join("advisory-db.tar.gz");
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn a_vulnerable_version_is_found_with_its_advisory_and_remedy() {
    let (name, version) = package();
    let more = "aliases = [\"CVE-2026-1\"]\ncvss = \"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\"";
    let scanned = scan(Some(&database(&Written { more, ..Written::new() })), &[]);
    assert_eq!(scanned.code, 1, "{}", scanned.errors);
    let finding = &scanned.check("scan.dependencies")["findings"][0];
    assert_eq!(finding["rule"], "RUSTSEC-2026-9001");
    assert_eq!(finding["subject"], format!("{name} {version}"));
    assert_eq!((&finding["severity"], &finding["title"]), (&"critical".into(), &"Parses süßes nothing".into()));
    assert!(finding["evidence"].as_str().unwrap().contains("CVE-2026-1"), "{finding}");
    assert!(finding["remedy"].as_str().unwrap().contains(">=999.0.0"), "{finding}");
    assert_eq!(scanned.report["facts"]["database"]["advisories"], 1);
}

#[test]
fn a_patched_version_another_platform_and_a_withdrawn_advisory_are_not_found() {
    let (name, version) = package();
    let patched = Written { patched: format!("\">= {version}\""), ..Written::new() };
    let windows = Written { more: "\n[affected]\nos = [\"windows\"]\n", ..Written::new() };
    let withdrawn = Written { more: "withdrawn = \"2026-01-01\"", ..Written::new() };
    let elsewhere = Written { package: format!("{name}-of-nobody"), ..Written::new() };
    for advisory in [patched, windows, withdrawn, elsewhere] {
        let scanned = scan(Some(&database(&advisory)), &[]);
        assert_eq!((scanned.code, &scanned.report["verdict"]), (0, &"clean".into()), "{}", advisory.text());
        assert_eq!(scanned.check("scan.dependencies")["result"], "passed");
    }
}

#[test]
fn a_version_is_judged_by_ranges_of_every_form() {
    let (_, version) = package();
    let [major, minor, patch] = version.split('.').map(|it| it.parse::<u32>().unwrap()).collect::<Vec<_>>()[..] else {
        panic!("{version}")
    };
    let (next, before) =
        (format!("{major}.{minor}.{}", patch + 1), format!("{major}.{minor}.{}", patch.saturating_sub(1)));
    for (versions, is_found) in [
        (format!("\">= {version}\""), false),
        (format!("\"> {version}\""), true),
        (format!("\"> {before}\""), patch == 0),
        (format!("\"<= {version}\""), false),
        (format!("\"< {version}\""), true),
        (format!("\"= {version}\""), false),
        (format!("\"= {next}\""), true),
        (format!("\"^{major}.{minor}\""), false),
        (format!("\"^{next}\""), true),
        (format!("\"~{major}.{minor}.0\""), false),
        (format!("\"^{}.0\", \">= 999\"", major + 1), true),
        (format!("\">= {version}, < {next}\""), false),
        (format!("\">= {next}, < 999\""), true),
        // After the comma it is another list: the releases that never had the fault.
        (format!("\">= 999\"]\nunaffected = [\"<= {version}\""), false),
        (format!("\">= 999\"]\nunaffected = [\"< {version}\""), true),
        (format!("]\nunaffected = [\"< {version}\""), true),
        (String::new(), true),
    ] {
        let advisory = Written { patched: versions.clone(), ..Written::new() };
        let scanned = scan(Some(&database(&advisory)), &[]);
        assert_eq!(scanned.code, i32::from(is_found), "{version} by {versions}: {}", scanned.errors);
    }
    let none = database(&Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() });
    let detail = scan(Some(&none), &[]).check("scan.dependencies")["detail"].to_string();
    assert!(detail.contains("yanked is not judged"), "{detail}");
}

#[test]
fn informational_advisories_are_low_and_medium_findings() {
    for (more, severity) in [
        ("informational = \"unmaintained\"", "low"),
        ("informational = \"notice\"", "low"),
        ("informational = \"unsound\"", "medium"),
        ("", "high"),
    ] {
        let scanned = scan(Some(&database(&Written { more, ..Written::new() })), &[]);
        assert_eq!(scanned.code, 1);
        assert_eq!(scanned.check("scan.dependencies")["findings"][0]["severity"], severity, "{more}");
    }
}

#[test]
fn a_stale_database_is_not_checked_and_what_it_knows_is_still_found() {
    let old = Written { date: days_ago(9), ..Written::new() };
    let scanned = scan(Some(&database(&old)), &[]);
    assert_eq!(scanned.code, 1, "a finding outweighs the age");
    assert!(scanned.reason("scan.database").contains("stale"));

    let harmless = database(&Written { patched: "\">= 0.0.0\"".to_owned(), ..old });
    let scanned = scan(Some(&harmless), &[]);
    assert_eq!((scanned.code, &scanned.report["verdict"]), (3, &"incomplete".into()));
    assert!(scanned.reason("scan.database").contains("stale") && !scanned.reason("scan.dependencies").is_empty());

    // Fetched today, although nothing was published for a while.
    put(&harmless, "snapshot-date", clock::now().to_rfc3339().as_bytes());
    assert_eq!(scan(Some(&harmless), &[]).code, 0);
    put(&harmless, "snapshot-date", (clock::now() + TimeDelta::days(3)).to_rfc3339().as_bytes());
    let scanned = scan(Some(&harmless), &[]);
    assert_eq!(scanned.code, 3);
    assert!(scanned.reason("scan.database").contains("in the future"));
    put(&harmless, "snapshot-date", b"yesterday");
    let scanned = scan(Some(&harmless), &[]);
    assert_eq!(scanned.code, 3);
    assert!(scanned.reason("scan.database").contains("has no date"));
}

#[test]
fn without_a_database_nothing_is_clean() {
    let scanned = scan(None, &[]);
    assert_eq!((scanned.code, &scanned.report["verdict"]), (3, &"incomplete".into()));
    assert!(scanned.reason("scan.database").contains("FULEXO_ADVISORY_DB"));
    let scanned = scan(Some(Path::new("/nowhere/at/all")), &[]);
    assert_eq!(scanned.code, 3);
    assert!(scanned.reason("scan.database").contains("/nowhere/at/all"));

    let found = database(&Written::new()).display().to_string();
    let env = BTreeMap::from([("FULEXO_ADVISORY_DB".to_owned(), found)]);
    let scanned = run(&["vulnerability-scan", "--dependencies-only", "--json"], &env);
    assert_eq!(scanned.code, 1, "the variable names one: {}", scanned.errors);
}

#[test]
fn an_accepted_finding_is_printed_with_its_reason_and_does_not_count() {
    let database = database(&Written::new());
    let accepted = exceptions(r#"{ id = "RUSTSEC-2026-9001", reason = "nobody parses süßes" }"#);
    let scanned = scan(Some(&database), &["--exceptions", &accepted]);
    assert_eq!((scanned.code, &scanned.report["verdict"]), (0, &"clean".into()));
    assert_eq!(scanned.check("scan.dependencies")["findings"][0]["accepted"], "nobody parses süßes");
    assert_eq!(scanned.check("scan.exceptions")["result"], "passed");

    let more = "aliases = [\"CVE-2026-1\"]";
    let aliased = self::database(&Written { more, ..Written::new() });
    let by_alias = exceptions(r#"{ id = "CVE-2026-1", reason = "by its other name" }"#);
    let scanned = scan(Some(&aliased), &["--exceptions", &by_alias]);
    assert_eq!(scanned.code, 0, "{:#}", scanned.report);
    assert_eq!(scanned.check("scan.dependencies")["findings"][0]["accepted"], "by its other name");

    let database = database.display().to_string();
    let arguments = ["vulnerability-scan", "--dependencies-only", "--database", &database, "--exceptions", &accepted];
    let text = Program::start(&arguments, &BTreeMap::new()).wait();
    assert!(text.status.success() && text.said.contains("accepted: nobody parses süßes"), "{}", text.said);
}

#[test]
fn an_exception_that_is_unused_expired_or_without_a_reason_does_not_pass() {
    let (harmful, harmless) =
        (database(&Written::new()), database(&Written { patched: "\">= 0.0.0\"".to_owned(), ..Written::new() }));
    let rule = |scanned: &Scanned| scanned.check("scan.exceptions")["findings"][0]["rule"].clone();
    let unused = exceptions(r#"{ id = "RUSTSEC-2026-9001", reason = "r" }"#);
    let scanned = scan(Some(&harmless), &["--exceptions", &unused]);
    assert_eq!((scanned.code, rule(&scanned)), (1, "scan.exception_unused".into()));
    // Without a database nobody knows whether it is used.
    let scanned = scan(None, &["--exceptions", &unused]);
    assert_eq!((scanned.code, &scanned.check("scan.exceptions")["result"]), (3, &"not_checked".into()));

    let expired = format!(r#"{{ id = "RUSTSEC-2026-9001", reason = "r", expires = "{}" }}"#, days_ago(2));
    let scanned = scan(Some(&harmful), &["--exceptions", &exceptions(&expired)]);
    assert_eq!((scanned.code, rule(&scanned)), (1, "scan.exception_expired".into()));
    assert_eq!(scanned.check("scan.dependencies")["findings"][0]["accepted"], Value::Null);

    for entry in [r#""RUSTSEC-2026-9001""#, r#"{ id = "RUSTSEC-2026-9001" }"#] {
        let scanned = scan(Some(&harmful), &["--exceptions", &exceptions(entry)]);
        assert_eq!(scanned.code, 2);
        assert!(scanned.errors.contains("without a reason: RUSTSEC-2026-9001"), "{}", scanned.errors);
    }
}

#[test]
fn a_packed_database_is_read_as_github_and_as_tar_pack_it() {
    let advisory = Written::new();
    let (path, text, now) = (advisory.path(), advisory.text(), clock::now().timestamp());
    for prefix in ["", "./", "advisory-db-main/"] {
        let path = format!("{prefix}{path}");
        let bytes = packed(&[("pax_global_header", b'g', b"52 comment=0"), (&path, b'0', text.as_bytes())], now);
        assert_eq!(scan(Some(&archive(&bytes)), &[]).code, 1, "{path}");
    }

    // What git packs has the time of its commit, however old the newest advisory is.
    let old = Written { date: days_ago(30), patched: "\">= 0.0.0\"".to_owned(), ..Written::new() };
    let text = old.text();
    assert_eq!(scan(Some(&archive(&packed(&[(&path, b'0', text.as_bytes())], now))), &[]).code, 0);
    let long_ago = now - 8 * 86_400;
    assert_eq!(scan(Some(&archive(&packed(&[(&path, b'0', text.as_bytes())], long_ago))), &[]).code, 3);
}

#[test]
fn a_report_is_sarif_with_the_advisory_as_its_rule() {
    let found = database(&Written::new()).display().to_string();
    let arguments = ["vulnerability-scan", "--dependencies-only", "--sarif", "--database", &found];
    let scanned = run(&arguments, &BTreeMap::new());
    assert_eq!((scanned.code, &scanned.report["version"]), (1, &"2.1.0".into()));
    let run = &scanned.report["runs"][0];
    let results = run["results"].as_array().unwrap();
    // The project's own exceptions match nothing in this database.
    assert!(results.iter().any(|it| it["ruleId"] == "RUSTSEC-2026-9001" && it["level"] == "error"), "{run:#}");
    assert!(results.iter().any(|it| it["ruleId"] == "scan.exception_unused"), "{run:#}");
}

#[test]
#[ignore = "measures"]
fn a_scan_of_as_many_advisories_as_there_are() {
    let folder = folder();
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let names: Vec<_> = lock.split("\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let description = "An advisory of a usual length has a few paragraphs.\n\n".repeat(40);
    for number in 0..1_225 {
        // A third is about packages of ours, as many as that are found.
        let package = if number % 3 == 0 { names[number % names.len()].to_owned() } else { format!("other-{number}") };
        let id: &'static str = format!("RUSTSEC-2026-{number:04}").leak();
        let advisory = Written { id, package, ..Written::new() };
        put(&folder, &advisory.path(), (advisory.text() + &description).as_bytes());
    }
    let entries: Vec<_> =
        walk(&folder).into_iter().map(|path| (path.clone(), fs::read(folder.join(path)).unwrap())).collect();
    let entries: Vec<_> = entries.iter().map(|(path, content)| (path.as_str(), b'0', content.as_slice())).collect();
    let file = archive(&packed(&entries, clock::now().timestamp()));
    for database in [&folder, &file] {
        for _ in 0..3 {
            let began = std::time::Instant::now();
            let scanned = scan(Some(database), &[]);
            let found = scanned.check("scan.dependencies")["findings"].as_array().unwrap().len();
            println!("{}: {:?}, {found} found, exit code {}", database.display(), began.elapsed(), scanned.code);
        }
    }
}

/// Lists the files of a database, by their paths in it.
fn walk(database: &Path) -> Vec<String> {
    let inside = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let files = inside(database.join("crates")).into_iter().flat_map(inside);
    files.map(|file| file.strip_prefix(database).unwrap().display().to_string()).collect()
}
