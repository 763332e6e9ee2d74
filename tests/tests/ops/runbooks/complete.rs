//! The runbooks as a whole: one form, no page that nothing leads to, a page for every alert and every command.

use std::collections::BTreeSet;
use std::fs;

use super::page::{Page, Section};
use super::root;

/// The longest page, in lines: one screen and a half.
const MOST_LINES: usize = 64;
/// The most blocks that are examples, because their commands differ from machine to machine.
const MOST_EXAMPLES: usize = 16;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the files of a folder whose names end so, without the ending.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned())).collect()
}

/// The names of all pages.
fn pages() -> BTreeSet<String> {
    let mut pages = names("docs/runbooks", ".md");
    assert!(pages.remove("README") && pages.len() > 30, "the pages were not found: {pages:?}");
    pages
}

/// The pages that a text links to.
fn linked(text: &str) -> BTreeSet<String> {
    let links = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap());
    let names = links.filter_map(|link| link.strip_prefix("runbooks/").unwrap_or(link).strip_suffix(".md"));
    names.filter(|name| !name.contains('/')).map(str::to_owned).collect()
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the table below a heading.
fn table<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let section = text.split_once(heading).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    rows.skip(1).collect()
}

#[test]
fn every_page_has_the_same_form_and_few_commands_that_are_not_run() {
    let mut examples = 0;
    for name in pages() {
        let page = Page::read(&name);
        assert!(page.text.starts_with("# "), "{name}");
        assert_eq!(page.headings, Section::HEADINGS, "{name}");
        assert!(page.text.lines().count() <= MOST_LINES, "{name} has {} lines", page.text.lines().count());
        let commands = [&[Section::First, Section::Cause][..], &[Section::Over]].map(|it| page.steps(it).count());
        assert!(
            commands.into_iter().all(|count| count > 0),
            "{name}: no command to begin with, or none that says it is over"
        );
        examples += page.examples;
    }
    assert!(examples <= MOST_EXAMPLES, "{examples} blocks of commands are not run");
}

#[test]
fn the_index_leads_to_every_page_and_every_page_is_run() {
    let index = linked(&read("docs/runbooks/README.md"));
    assert_eq!(index.intersection(&pages()).cloned().collect::<BTreeSet<_>>(), pages(), "a page that nothing leads to");
    let folder = "tests/tests/ops/runbooks";
    let sources: String = names(folder, ".rs")
        .iter()
        .filter(|name| *name != "page")
        .map(|name| read(&format!("{folder}/{name}.rs")))
        .collect();
    for page in pages() {
        assert!(sources.contains(&format!("\"{page}\"")), "no test runs {page}");
    }
}

#[test]
fn every_alert_has_a_page_that_names_it_and_a_metric_that_exists() {
    let monitoring = read("docs/monitoring.md");
    let metrics: BTreeSet<&str> =
        table(&monitoring, "## Scrape metrics").iter().filter_map(|row| quoted(row).next()).collect();
    let mut alerts = BTreeSet::new();
    for row in table(&monitoring, "## Alert") {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [page] =
            <[String; 1]>::try_from(linked(row).into_iter().collect::<Vec<_>>()).unwrap_or_else(|_| panic!("{row}"));
        for alert in quoted(cells[1]).filter(|alert| alert.contains('_') || alert.contains("==")) {
            assert!(alerts.insert((page.clone(), alert.to_owned())), "{alert} occurs twice");
            for metric in alert.split(' ').filter(|word| word.starts_with("fulexo_")) {
                assert!(metrics.contains(metric), "{alert}: there is no metric {metric}");
            }
        }
    }
    let named: BTreeSet<(String, String)> = pages()
        .iter()
        .flat_map(|name| Page::read(name).alerts.into_iter().map(|alert| (name.clone(), alert)))
        .filter(|(_, alert)| alert.contains('_') || alert.contains("=="))
        .collect();
    assert_eq!(named, alerts, "the alerts of the pages, and those of docs/monitoring.md");
    let index = read("docs/runbooks/README.md");
    let index: BTreeSet<_> = table(&index, "## Find a page by alert").iter().flat_map(|row| linked(row)).collect();
    for (page, alert) in alerts {
        assert!(index.contains(&page), "{alert} is not in the index");
    }
}

#[test]
fn every_verb_and_script_of_operations_is_in_the_index_of_commands() {
    let index = read("docs/runbooks/README.md");
    let rows = table(&index, "## Find a page by command");
    let commands: Vec<&str> = rows.iter().flat_map(|row| quoted(row)).collect();
    let mut verbs = names("api/src/cli/ops", ".rs");
    verbs.extend(names("api/src/cli/ops", ""));
    let verbs = verbs.into_iter().filter(|name| !name.contains('.') && name != "mod" && name != "report_text");
    for verb in verbs.map(|name| format!("fulexo {}", name.replace('_', "-"))) {
        assert!(commands.contains(&verb.as_str()), "{verb} has no page");
    }
    for script in names("scripts", ".sh") {
        let script = format!("{script}.sh");
        assert!(commands.iter().any(|command| command.split(' ').next() == Some(&script)), "{script} has no page");
    }
}

#[test]
fn every_page_of_the_documentation_that_a_rule_refers_to_exists() {
    let sources = [
        ("api/ops/src/audit", ".rs"),
        ("api/ops/src/probe", ".rs"),
        ("api/ops/src/scan", ".rs"),
        ("api/ops/src/backup", ".rs"),
        ("api/ops/src/headers", ".rs"),
        ("api/ops/src/restore", ".rs"),
        ("api/ops/src/health", ".rs"),
        ("api/ops/src/tls", ".rs"),
    ];
    let mut count = 0;
    for (folder, ending) in sources {
        for file in names(folder, ending) {
            let text = read(&format!("{folder}/{file}{ending}"));
            // A test asks whether a reference begins so.
            let references = text.split("\"docs/").skip(1).map(|rest| rest.split(['"', ';']).next().unwrap());
            for reference in references.filter(|reference| !reference.is_empty()) {
                let (page, anchor) = reference.split_once('#').unwrap_or((reference, ""));
                let text = read(&format!("docs/{page}"));
                let heading = |line: &str| {
                    let kept = line.trim_start_matches('#').trim().to_lowercase();
                    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
                };
                let is_there =
                    anchor.is_empty() || text.lines().any(|line| line.starts_with('#') && heading(line) == anchor);
                assert!(is_there, "{folder}/{file}{ending}: {reference} leads nowhere");
                count += 1;
            }
        }
    }
    assert!(count > 20, "the references were not found");
}
