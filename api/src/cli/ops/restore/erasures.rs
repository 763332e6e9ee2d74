//! Erasures after a restore: the list of those who were erased since, and their erasure.

use std::collections::BTreeSet;
use std::path::Path;

use fulexo_commands::CommandError;
use fulexo_database::chain;
use fulexo_domain::account::AccountError;
use fulexo_domain::permission::{Permission, Permissions};
use fulexo_domain::values::{AccountId, Reason};
use fulexo_node::state::App;
use fulexo_ops::finding::Finding;
use fulexo_ops::restore::NOT_ERASED;
use uuid::Uuid;

use crate::cli::failure::Failure;
use crate::cli::process::operator;
use crate::cli::progress::Progress;
use crate::cli::text_file::read_text;

/// The length of the longest list, in bytes: a million ids.
const MAX_LIST: u64 = 40 << 20;
/// The reason that the log has, sealed.
const REASON: &str = "erased before, and there again after the restore of a backup";

/// The result of erasing everybody on a list.
pub struct Erased {
    /// The number of those who are erased now.
    pub count: u64,
    /// The number of those whom the backup does not have.
    pub unknown: u64,
    /// Those who are still there.
    pub findings: Vec<Finding>,
}

/// Reads the ids of accounts, one per line. Empty lines and those that begin with `#` are left out.
pub fn read_list(path: &Path) -> Result<Vec<Uuid>, Failure> {
    let text = read_text(path, MAX_LIST)?;
    let lines = text.lines().enumerate().map(|(number, line)| (number, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            Uuid::parse_str(line).map_err(|_| {
                let number = number + 1;
                Failure::Misused(format!("--erasures: line {number} of {} is not the id of an account", path.display()))
            })
        })
        .collect()
}

/// Erases everybody on the list again. One who cannot be erased does not keep the others.
pub async fn erase(app: &App, accounts: &BTreeSet<Uuid>) -> Result<Erased, Failure> {
    let mut erased = Erased { count: 0, unknown: 0, findings: Vec::new() };
    let mut bar = Progress::of("accounts", "erase".to_owned(), 0);
    for (done, account) in (1..).zip(accounts) {
        let reason = Reason::parse(REASON).map_err(|error| Failure::Failed(error.to_string()))?;
        let own = Permissions::of(&Permission::ALL);
        match app.commands.erase(&operator(), own, AccountId(*account), reason).await {
            Ok(_) => erased.count += 1,
            Err(CommandError::Account(AccountError::NotFound)) => erased.unknown += 1,
            Err(error) => {
                erased.findings.push(NOT_ERASED.finding(format!("account {account}"), chain(&error).to_string()));
            }
        }
        bar.show(done, accounts.len() as u64);
    }
    Ok(erased)
}
