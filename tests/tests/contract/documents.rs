//! The pages of `docs/` and the README, compared with the program: variables, verbs, problem codes, metrics and quotas
//! are complete, every link has a target, and the maps of the code name what exists. Does not judge sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::TimeDelta;
use fulexo_domain::rate_limit::{RateLimit, RateLimits};
use fulexo_node::config::Config;
use fulexo_node::http::problem::Code;
use fulexo_tests::second_tlog::{SecondLog, SecondWitness};
use fulexo_tests::spec::document;
use fulexo_tests::{Database, NatsCluster, NatsVersion, Node, Program, eventually, own_dir};

/// The maximum size of the README, in bytes.
const README_BOUND: usize = 9_216;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Reads a file by its path in the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Finds every file below a folder whose path ends in `ending`.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort_unstable();
    found
}

/// Returns the cells of each row of the tables whose first column has this head.
fn rows(text: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inside = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(inside.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    let mut found = Vec::new();
    let (mut is_inside, mut is_first) = (false, true);
    for line in text.lines() {
        match cells(line) {
            None => (is_inside, is_first) = (false, true),
            Some(cells) if is_first => (is_inside, is_first) = (cells[0] == head, false),
            Some(cells) if is_inside && !cells[0].starts_with("--") => found.push(cells),
            Some(_) => {}
        }
    }
    found
}

/// Returns the texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the quoted names in the first column of such tables. Panics if a name occurs twice.
fn names(text: &str, head: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for row in rows(text, head) {
        for name in quoted(&row[0]) {
            assert!(names.insert(name.to_owned()), "{name} occurs twice in the table of {head}");
        }
    }
    names
}

/// Panics unless both sets are equal, and names the differences.
#[track_caller]
fn assert_same<T: Ord + Debug>(page: &str, documented: &BTreeSet<T>, real: &BTreeSet<T>) {
    let missing: Vec<_> = real.difference(documented).collect();
    let extra: Vec<_> = documented.difference(real).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{page} lacks {missing:?} and has {extra:?}, which do not exist");
}

/// `true` if the text has the form of a variable's name.
fn is_variable(name: &str) -> bool {
    let mut parts = name.split('_');
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_uppercase())
            && part.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    parts.clone().count() > 1 && parts.all(is_part)
}

/// Returns every variable that the sources of the configuration name, and every one that is read directly.
fn variables() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let sources = ["api/src", "api/node/src"].map(|folder| files(&root().join(folder), ".rs"));
    for path in sources.into_iter().flatten() {
        let within: Vec<_> = path.iter().collect();
        if within.iter().any(|part| *part == "edge_tests" || *part == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if within.iter().any(|part| *part == "config") {
            found.extend(text.split('"').filter(|name| is_variable(name)).map(str::to_owned));
        }
        let read = text.split("env::var(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        found.extend(read);
    }
    found
}

#[test]
fn the_configuration_page_lists_every_variable_and_no_other() {
    let documented = names(&read("docs/configuration.md"), "variable");
    let read = variables();
    assert!(read.len() > 30, "the sources were not found: {read:?}");
    assert_same("docs/configuration.md", &documented, &read);

    // A refusal of an unknown variable lists the known ones.
    let wrong = [("FULEXO_SOMETHING_ELSE".to_owned(), "1".to_owned())].into();
    let Err(problems) = Config::from_vars(wrong, |_| Err(String::new())) else {
        panic!("an unknown variable is accepted")
    };
    let told = problems.0.iter().find_map(|problem| problem.split_once("The variables are ")).unwrap().1;
    let known: BTreeSet<_> = told.split(", ").map(str::to_owned).collect();
    let own = documented.into_iter().filter(|name| name.starts_with("FULEXO_")).collect();
    assert_same("docs/configuration.md", &own, &known);
}

#[test]
fn the_configuration_page_lists_the_default_quotas() {
    let page = read("docs/configuration.md");
    let documented: BTreeSet<_> =
        rows(&page, "limit").into_iter().map(|row| (quoted(&row[0]).concat(), row[1].clone())).collect();
    let defaults = RateLimits::default();
    let real = RateLimit::all().map(|limit| {
        let quota = defaults.quota(limit);
        let window = if quota.window() == TimeDelta::hours(1) { "hour" } else { "minute" };
        assert!(quota.window() == TimeDelta::hours(1) || quota.window() == TimeDelta::minutes(1));
        let requests = quota.requests();
        let requests =
            if requests < 1000 { requests.to_string() } else { format!("{},{:03}", requests / 1000, requests % 1000) };
        (limit.as_str().to_owned(), format!("{requests} per {window}"))
    });
    assert_same("docs/configuration.md", &documented, &real.collect());
}

/// Runs the program, and returns the help text that it prints.
fn help(arguments: &[&str]) -> String {
    let ended = Program::start(arguments, &BTreeMap::new()).wait();
    assert!(ended.status.success(), "{arguments:?}: {}", ended.errors);
    ended.said
}

/// Parses the arguments and options of a help text, each with its possible values and its default.
fn arguments(help: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let (mut is_inside, mut last) = (false, String::new());
    for line in help.lines() {
        let text = line.trim_start();
        if line.starts_with(|c: char| c.is_ascii_uppercase()) {
            is_inside = line == "Options:" || line == "Arguments:";
        } else if is_inside && line.len() - text.len() <= 6 && text.starts_with(['-', '<', '[']) {
            let (name, rest) = text.split_once("  ").unwrap_or((text, ""));
            // A short form may stand before the long one.
            name.rsplit(", ").next().unwrap().clone_into(&mut last);
            found.insert(last.clone(), rest.to_owned());
        } else if let Some(about) = found.get_mut(&last) {
            about.push('\n');
            about.push_str(text);
        }
    }
    found.into_iter().map(|(name, about)| (name, values(&about))).collect()
}

/// Parses the possible values and the default in the help text of one argument.
fn values(about: &str) -> Vec<String> {
    let listed = about.lines().filter_map(|line| Some(line.strip_prefix("- ")?.split_once(':')?.0.to_owned()));
    let mut values: Vec<String> = listed.collect();
    let line = about.replace('\n', " ");
    for mark in ["[possible values: ", "[default: "] {
        let Some((_, rest)) = line.split_once(mark) else { continue };
        let inside = rest.split(']').next().unwrap();
        // A default of several words is a sentence.
        if mark.starts_with("[possible") || !inside.contains(' ') {
            values.extend(inside.split(", ").map(|value| value.trim().to_owned()));
        }
    }
    values
}

/// Panics unless the table lists exactly these arguments, and each row names the values of its argument.
#[track_caller]
fn assert_arguments(verb: &str, rows: &[Vec<String>], real: &BTreeMap<String, Vec<String>>) {
    let about: BTreeMap<&str, &str> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1].as_str())).collect();
    assert_eq!(about.len(), rows.len(), "`fulexo {verb}`: an argument is documented twice");
    let documented = about.keys().map(|name| (*name).to_owned()).collect();
    assert_same(&format!("`fulexo {verb}` in docs/cli.md"), &documented, &real.keys().cloned().collect());
    for (name, values) in real {
        let quoted = quoted(about[name.as_str()]);
        let missing: Vec<_> = values.iter().filter(|value| !quoted.contains(&value.as_str())).collect();
        assert!(missing.is_empty(), "`fulexo {verb}` {name} in docs/cli.md does not name {missing:?}");
    }
}

/// The verbs that a help lists.
fn inner(help: &str) -> BTreeSet<String> {
    let commands = help.split_once("Commands:\n").map_or("", |(_, commands)| commands).lines();
    let commands = commands.take_while(|line| !line.is_empty());
    let verbs = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|verb| !verb.is_empty());
    verbs.map(str::to_owned).collect()
}

/// A verb that does something by itself, and its own verbs.
fn with_inner(verb: &str) -> Vec<String> {
    if verb == "help" {
        return vec![verb.to_owned()];
    }
    let help = help(&verb.split(' ').chain(["--help"]).collect::<Vec<_>>());
    // One that also has verbs shows that in a second line of its usage.
    let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap_or_default();
    let own = (!usage.contains("<COMMAND>")).then(|| verb.to_owned());
    let inner = inner(&help);
    let inner = inner.iter().filter(|it| *it != "help").flat_map(|it| with_inner(&format!("{verb} {it}")));
    own.into_iter().chain(inner).collect()
}

#[test]
fn the_command_line_page_lists_every_verb_and_option_and_no_other() {
    let page = read("docs/cli.md");
    let top = help(&["--help"]);
    let common = arguments(&top);
    assert_arguments("--help", &rows(&page, "option"), &common);

    let verbs = inner(&top);
    assert!(verbs.len() > 10, "{verbs:?}");
    assert_same("docs/cli.md", &names(&page, "verb"), &verbs);

    let sections: BTreeMap<&str, &str> =
        page.split("\n### `fulexo ").skip(1).map(|section| section.split_once('`').unwrap()).collect();
    let documented = sections.keys().map(|verb| (*verb).to_owned()).collect();
    let verbs: BTreeSet<String> = verbs.iter().flat_map(|verb| with_inner(verb)).collect();
    assert_same("the headings of docs/cli.md", &documented, &verbs);
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let mut real = arguments(&help(&words));
        real.retain(|name, _| !common.contains_key(name));
        assert_arguments(verb, &rows(sections[verb.as_str()], "argument"), &real);
    }
}

/// Returns the table of docs/problems.md as the program defines it.
fn problems() -> String {
    let mut table = String::from("| code | status | meaning | what to do |\n|---|---|---|---|\n");
    for Code { name, status, meaning, remedy } in Code::ALL {
        writeln!(table, "| `{name}` | {status} | {meaning} | {remedy} |").unwrap();
    }
    table
}

/// Returns the page up to its table.
fn before_the_table(page: &str) -> &str {
    page.split("| code |").next().unwrap()
}

#[test]
fn the_problems_page_explains_every_code_as_the_service_does() {
    let page = read("docs/problems.md");
    let codes = document()["components"]["schemas"]["ProblemCode"]["enum"].as_array().unwrap().clone();
    let codes = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    assert_same("docs/problems.md", &names(&page, "code"), &codes);
    let table = &page[before_the_table(&page).len()..];
    for (documented, real) in table.lines().zip(problems().lines()) {
        assert_eq!(documented, real, "docs/problems.md: run the ignored test that writes it");
    }
    assert_eq!(table, problems(), "docs/problems.md: run the ignored test that writes it");
}

#[test]
#[ignore = "writes the table of docs/problems.md"]
fn write_the_table_of_problems() {
    let page = read("docs/problems.md");
    fs::write(root().join("docs/problems.md"), before_the_table(&page).to_owned() + &problems()).unwrap();
}

/// Parses the metrics of a scrape, each with the name of its label.
fn metrics(scraped: &str) -> BTreeSet<(String, String)> {
    let samples = scraped.lines().filter(|line| !line.starts_with('#'));
    let metrics = samples.map(|line| {
        let (name, labels) = line.split_once(['{', ' ']).unwrap();
        let labels = if line.contains('{') { labels.split('=').next().unwrap() } else { "" };
        (name.to_owned(), labels.to_owned())
    });
    metrics.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitoring_page_lists_every_metric_and_no_other() {
    let nats = NatsCluster::one(NatsVersion::Installed).await;
    let database = Arc::new(Database::create().await);
    let mut env = database.env();
    for (name, value) in
        [("NATS_URL", nats.url().as_str()), ("FULEXO_NATS_REPLICAS", "1"), ("FULEXO_FEED", "jetstream")]
    {
        env.insert(name.to_owned(), value.to_owned());
    }
    // Witnesses, whether or not they have anything to cosign.
    let witness = SecondWitness::start("witness.example/w", [1; 32], &[]).await;
    let dir = own_dir();
    let log = SecondLog::new("log.example/l", [2; 32]).vkey();
    let policy = format!("log {log}\nwitness w {} {}\nquorum w\n", witness.vkey(), witness.url());
    dir.store("policy", &policy).unwrap();
    env.insert("FULEXO_TRUST_POLICY_FILE".to_owned(), dir.path().join("policy").display().to_string());
    let node = Node::with(&database, env).await;
    let scraped = async || metrics(&node.anonymous().get("/metrics").await.text);
    eventually("this node copies the log and knows its witnesses", async || {
        let scraped = scraped().await;
        ["fulexo_relay_position", "fulexo_witness_size"]
            .iter()
            .all(|name| scraped.iter().any(|(found, _)| found == name))
    })
    .await;
    let page = read("docs/monitoring.md");
    let documented =
        rows(&page, "metric").into_iter().map(|row| (quoted(&row[0]).concat(), quoted(&row[1]).concat())).collect();
    assert_same("docs/monitoring.md", &documented, &scraped().await);
    node.stop().await;
}

/// Returns a text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Returns the anchors of a page's headings, as GitHub derives them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free = [anchor.clone()].into_iter().chain(again).find(|anchor| !found.contains(anchor));
        found.extend(free);
    }
    found
}

/// Finds every Markdown file at the top level and in `docs/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), ".md");
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(top.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    pages
}

#[test]
fn every_link_in_the_documents_has_a_target() {
    let (mut broken, mut count) = (Vec::new(), 0);
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        let prose = prose(&text);
        let links = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let leads = target.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&target).unwrap()).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(count > 30, "the documents were not found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_has_at_most_nine_kilobytes() {
    let size = read("README.md").len();
    assert!(size <= README_BOUND, "README.md has {size} bytes, of {README_BOUND}");
}

#[test]
fn every_page_begins_with_its_purpose() {
    let folder = root().join("docs");
    for path in pages().iter().filter(|path| path.parent() == Some(&folder)) {
        let text = fs::read_to_string(path).unwrap();
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap();
        assert!(first.starts_with("This page "), "{}: {first}", path.display());
    }
}

/// Documents that name files and items of the sources.
const MAPS: [&str; 3] = ["ARCHITECTURE.md", "docs/invariants.md", "CONTRIBUTING.md"];
/// Examples in them, which name nothing.
const EXAMPLES: [&str; 2] = ["login_is_refused_while_locked", "too_many_arguments"];

#[test]
fn the_maps_name_files_and_items_that_exist() {
    let folders = ["domain", "commands", "projections", "api", "migrations", "tests/src", "tests/tests", "scripts"];
    let sources: Vec<_> = folders.iter().flat_map(|folder| files(&root().join(folder), "")).collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = BTreeSet::new();
    for path in sources.iter().filter(|path| path.extension().is_some_and(|it| it == "rs" || it == "sql")) {
        let text = fs::read_to_string(path).unwrap();
        words.extend(text.split(|c| !is_word(c)).map(str::to_owned));
    }
    // Lints have their names there.
    let lints = ["Cargo.toml", "clippy.toml"].map(read);
    words.extend(lints.iter().flat_map(|text| text.split(|c| !is_word(c))).map(str::to_owned));
    let exists = |file: &str| sources.iter().any(|path| path.ends_with(file)) || root().join(file).exists();
    let mut wrong = Vec::new();
    for page in MAPS {
        for span in quoted(&read(page)) {
            // A path of the API or a command line names no item.
            if span.starts_with('/') || span.contains("cargo ") || span.contains("make ") {
                continue;
            }
            let wanted = span.split(|c: char| !is_word(c) && !"./-".contains(c));
            for name in wanted.map(|name| name.trim_matches(|c| ".-".contains(c))) {
                let is_file = name.ends_with(".rs") || name.ends_with(".sql");
                let is_item = name.chars().all(is_word)
                    && (name.contains('_') || name.chars().skip(1).any(char::is_uppercase))
                    && !name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                let is_known = if is_file { exists(name) } else { !is_item || words.contains(name) };
                if !is_known && !EXAMPLES.contains(&name) {
                    wrong.push(format!("{page}: `{span}` names {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
