//! Every figure that the project claims, each next to its reference, measured in the same run on the same machine.
//!
//! `make bench` runs all; `cargo bench -p fulexo-tests -- appends` runs those whose name is given. Machines are noisy:
//! a figure is the median of its rounds, and rounds of ours and of the reference take turns.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

mod age;
mod appends;
mod attack;
mod backup;
mod bodies;
mod export;
mod growth;
mod limits;
mod load;
mod logins;
mod memory;
mod preview;
mod queries;
mod rebuild;
mod replay;
mod revocation;
mod rewrap;
mod session;
mod stream;
mod streams;
mod table;
mod trail;
mod visible;

use std::process::ExitCode;

type Figure = (&'static str, fn(&tokio::runtime::Runtime));

const FIGURES: [Figure; 21] = [
    ("appends", appends::run),
    ("logins", logins::run),
    ("limits", limits::run),
    ("attack", attack::run),
    ("bodies", bodies::run),
    ("session", session::run),
    ("stream", stream::run),
    ("streams", streams::run),
    ("revocation", revocation::run),
    ("visible", visible::run),
    ("memory", memory::run),
    ("replay", replay::run),
    ("preview", preview::run),
    ("rebuild", rebuild::run),
    ("growth", growth::run),
    ("queries", queries::run),
    ("trail", trail::run),
    ("export", export::run),
    ("rewrap", rewrap::run),
    ("age", age::run),
    ("backup", backup::run),
];

fn main() -> ExitCode {
    // `cargo bench` adds --bench.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|name| FIGURES.iter().all(|(known, _)| known != name)) {
        eprintln!("there is no figure {unknown:?}; there are {}", FIGURES.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    }
    fulexo_tests::use_durable_postgres();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for (name, run) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!();
            run(&runtime);
        }
    }
    ExitCode::SUCCESS
}
