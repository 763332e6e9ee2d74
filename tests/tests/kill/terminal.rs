//! The output of verbs: in terminals of any width, with and without colours, and as JSON for programs.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use fulexo_tests::{Database, Program, history};
use serde_json::Value;
use tokio::task::block_in_place;

/// Returns a database with a history that every view has seen, and the variables of a node on it.
async fn start() -> (Database, BTreeMap<String, String>) {
    let database = Database::create().await;
    history::fill(&database, 2_000).await;
    let mut env = database.env();
    env.insert("DATABASE_OWNER_URL".to_owned(), database.owner_url());
    let ended = Program::run(&["rebuild", "--all"], &env);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    (database, env)
}

/// Returns the output of a verb on a terminal of this width, standard error included. `script` (util-linux) provides
/// the terminal.
fn on_terminal(verb: &str, width: usize, env: &BTreeMap<String, String>) -> String {
    let line = format!("stty cols {width} rows 40; exec {} {verb}", Program::path().display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm").envs(env);
    let output = block_in_place(|| command.stdin(Stdio::null()).output()).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{verb} in {width} columns: {text}");
    text.replace("\r\n", "\n")
}

/// Returns the text without escape sequences (ECMA-48): colours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, after)| after);
    }
    plain + rest
}

const LISTINGS: [&str; 8] = [
    "projections",
    "replay",
    "events --no-follow --from 0",
    "as-of 1999 accounts",
    "as-of 1999 sessions",
    "as-of 1999 roles",
    "as-of 1999 grants",
    "as-of 1999 metrics",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_a_listing_is_longer_than_the_terminal_is_wide() {
    let (_database, env) = start().await;
    for verb in LISTINGS {
        for width in [40, 60, 80, 100, 120, 200] {
            let text = plain(&on_terminal(verb, width, &env));
            let lines: Vec<&str> = text.lines().filter(|line| is_of_a_listing(line)).collect();
            let longest = lines.iter().max_by_key(|line| line.chars().count()).unwrap();
            assert!(longest.chars().count() <= width, "{verb} in {width} columns: {longest:?}");
            assert!(lines.len() >= 4, "{verb} in {width} columns: {text}");
        }
    }
}

/// `true` if the line belongs to a listing. Sentences, and a bar's traces, are left to the terminal.
fn is_of_a_listing(line: &str) -> bool {
    !line.contains('\r')
        && !line.starts_with("as of ")
        && !line.starts_with("the live tables agree")
        && !line.starts_with("replayed ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_every_verdict_in_eighty_columns() {
    let (_database, env) = start().await;
    let text = plain(&on_terminal("replay", 80, &env));
    let rows = text.lines().filter(|line| line.split_whitespace().any(|word| word == "agrees")).count();
    assert!(rows >= 10, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_shows_whom_it_is_about_in_eighty_columns() {
    let (_database, env) = start().await;
    let text = plain(&on_terminal("events --no-follow --from 0", 80, &env));
    let subject = |line: &str| Some(line.split_once("→ …")?.1.chars().take_while(char::is_ascii_hexdigit).count());
    let whole = text.lines().filter(|line| subject(line) == Some(8)).count();
    let cut = text.lines().filter(|line| subject(line).is_some_and(|digits| digits < 8)).count();
    assert!(whole > 1_000 && cut == 0, "{whole} whole, {cut} cut: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_whole_where_it_is_no_terminal_or_asked_for() {
    let (_database, env) = start().await;
    let piped = Program::run(&["as-of", "1999", "grants"], &env).said;
    let id = piped.lines().nth(2).unwrap().split_whitespace().next().unwrap();
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().to_string(), id, "{piped}");
    assert!(!piped.contains('…') && !piped.contains('\x1b'), "{piped}");
    let wide = plain(&on_terminal("as-of 1999 grants --wide", 80, &env));
    assert_eq!(wide, piped);
    assert!(on_terminal("as-of 1999 grants", 80, &env).contains('…'));
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_for_terminals_and_for_who_wants_them() {
    let (_database, mut env) = start().await;
    let has_colours = |verb: &str, env: &BTreeMap<String, String>| on_terminal(verb, 100, env).contains("\x1b[");
    for verb in ["events --no-follow", "as-of 1999 roles", "--help"] {
        assert!(has_colours(verb, &env), "{verb}");
    }
    for verb in ["events --no-follow", "as-of 1999 roles"] {
        assert!(!has_colours(&format!("{verb} --color never"), &env), "{verb}");
    }
    env.insert("NO_COLOR".into(), "1".into());
    for verb in LISTINGS.iter().filter(|verb| **verb != "replay").chain(&["--help"]) {
        assert!(!has_colours(verb, &env), "{verb}");
    }
    assert!(has_colours("events --no-follow --color always", &env));
    let piped = Program::run(&["events", "--no-follow", "--color", "always"], &BTreeMap::from_iter(env)).said;
    assert!(piped.contains("\x1b["), "{piped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_that_prints_prints_json_for_programs() {
    let (_database, env) = start().await;
    for (verb, members) in [
        ("projections", &[][..]),
        ("events --no-follow", &["type"]),
        ("as-of 1999 accounts", &["account_id"]),
        ("as-of 1999 sessions", &["session_id"]),
        ("as-of 1999 roles", &["role", "permissions"]),
        ("as-of 1999 grants", &["account_id", "role"]),
        ("as-of 1999 metrics", &["metric", "number"]),
        ("replay", &["position", "tables", "snapshots"]),
        ("rebuild audit roles", &["name", "version", "differing"]),
        ("rebuild --rollback audit", &["name", "version", "kept"]),
        ("migrate", &["applied", "version"]),
        ("register --email operator@example.com --role admin", &["account_id", "password"]),
        ("lockdown logins --reason drill", &["lockdown", "position", "enforced_on", "nodes", "down"]),
        ("lockdown off --reason drill", &["lockdown", "position"]),
    ] {
        let arguments: Vec<&str> = verb.split(' ').chain(["--json"]).collect();
        let ended = Program::run(&arguments, &env);
        assert_eq!(ended.status.code(), Some(0), "{verb}: {}", ended.errors);
        assert!(!ended.said.is_empty(), "{verb}");
        for line in ended.said.lines() {
            let document: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{verb}: {error}: {line}"));
            assert!(members.iter().all(|member| document.get(member).is_some()), "{verb}: {line}");
        }
    }
    let env = env.into_iter().chain([("FULEXO_PORT".to_owned(), "0".to_owned())]).collect();
    let said = block_in_place(|| Program::start(&["serve", "--json"], &env).says("{"));
    let document: Value = serde_json::from_str(&format!("{{{said}")).unwrap();
    assert!(document["listening_on"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_the_manual_know_every_verb() {
    let nothing = BTreeMap::new();
    let help = Program::run(&["--help"], &nothing).said;
    let (_, verbs) = help.split_once("Commands:").unwrap();
    let verbs: Vec<&str> = verbs
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A description may take another line.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .collect();
    assert!(verbs.len() >= 13, "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Program::run(&["completions", shell], &nothing);
        assert_eq!(script.status.code(), Some(0), "{shell}: {}", script.errors);
        assert!(verbs.iter().all(|word| script.said.contains(word)), "{shell}");
        // It also has the names of read models, if its shell completes values.
        assert!(script.said.contains("metrics") || ["elvish", "powershell"].contains(&shell), "{shell}");
    }
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("man-{}", std::process::id()));
    let ended = Program::run(&["man", dir.to_str().unwrap()], &nothing);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    for verb in verbs {
        let page = std::fs::read_to_string(dir.join(format!("fulexo-{verb}.1"))).unwrap();
        assert!(page.contains(".TH"), "{verb}");
    }
    assert!(std::fs::read_to_string(dir.join("fulexo.1")).unwrap().contains("rebuild"));
    std::fs::remove_dir_all(dir).unwrap();
}
