//! docs/security-audit.md, compared with the rules of the audit.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use fulexo_ops::audit::CHECKS;

const HEAD: &str = "| rule | severity | fault | remedy |";

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", name].iter().collect()
}

/// The page with the table of the rules as the program has them.
fn page() -> String {
    let page = fs::read_to_string(path("docs/security-audit.md")).unwrap();
    let mut page = page.split(HEAD).next().unwrap().to_owned();
    writeln!(page, "{HEAD}\n|---|---|---|---|").unwrap();
    for rule in CHECKS.iter().flat_map(|check| check.rules) {
        writeln!(page, "| `{}` | {} | {} | {} |", rule.id, rule.severity.as_str(), rule.title, rule.remedy).unwrap();
    }
    page
}

#[test]
fn the_page_lists_every_rule_as_the_program_has_it() {
    let kept = fs::read_to_string(path("docs/security-audit.md")).unwrap();
    for (kept, real) in kept.lines().zip(page().lines()) {
        assert_eq!(kept, real, "run the ignored test that writes it");
    }
    assert_eq!(kept, page(), "run the ignored test that writes it");
}

#[test]
#[ignore = "writes the table of docs/security-audit.md"]
fn write_the_rules() {
    fs::write(path("docs/security-audit.md"), page()).unwrap();
}

#[test]
fn every_rule_refers_to_a_page_and_a_section_that_exist() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let anchor = |line: &str| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    };
    // Those of check-ssl and check-headers refer to standards.
    let rules = CHECKS.iter().flat_map(|check| check.rules).filter(|rule| rule.reference.starts_with("docs/"));
    for rule in rules {
        let (file, anchor) = rule.reference.split_once('#').unwrap_or((rule.reference, ""));
        let text = fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{}: {file}: {error}", rule.id));
        assert!(anchor.is_empty() || anchors(&text).contains(anchor), "{}: {}", rule.id, rule.reference);
    }
}
