//! The help of every verb, as a terminal of 80 columns shows it: `tests/help/<verb>.txt`. A change of it is seen in review.
//! `cargo test -p fulexo-tests --test contract help -- --ignored` writes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use fulexo_api::cli::Cli;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "help"].iter().collect()
}

/// Returns the help of each verb and of those below it, by the name of its file.
fn pages() -> BTreeMap<String, String> {
    fn visit(name: &str, command: &mut Command, pages: &mut BTreeMap<String, String>) {
        pages.insert(format!("{name}.txt"), command.render_long_help().to_string());
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            let name = format!("{name}-{}", verb.get_name());
            visit(&name, verb, pages);
        }
    }
    let mut command = Cli::command().term_width(80);
    command.build();
    let mut pages = BTreeMap::new();
    visit("fulexo", &mut command, &mut pages);
    pages
}

fn kept() -> BTreeMap<String, String> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.file_name().unwrap().to_string_lossy().into(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_help_of_every_verb_is_as_it_was_reviewed() {
    let (pages, kept) = (pages(), kept());
    assert!(pages.len() > 30, "the verbs were not found: {}", pages.len());
    assert_eq!(pages.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (name, text) in &pages {
        assert_eq!(text, &kept[name], "{name}");
    }
}

#[test]
fn no_line_of_help_is_wider_than_a_terminal() {
    for (name, text) in pages() {
        // An example that is to be copied stays on one line.
        let wide = text.lines().find(|line| line.chars().count() > 80 && !line.contains('`'));
        assert_eq!(wide, None, "{name}");
    }
}

#[test]
#[ignore = "writes the help"]
fn write_the_help() {
    let pages = pages();
    for name in kept().keys().filter(|name| !pages.contains_key(*name)) {
        fs::remove_file(folder().join(name)).unwrap();
    }
    for (name, text) in pages {
        fs::write(folder().join(name), text).unwrap();
    }
}
