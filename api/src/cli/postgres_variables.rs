//! The variables of PostgreSQL's own clients, such as `PGOPTIONS` and `PGSSLMODE`: they are about databases of the shell's
//! owner. A private database is configured by nobody's environment; a verb that works on one begins again without them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::failure::Failure;

/// Returns if there are none; otherwise this process runs the same program again, with the same arguments, without them.
///
/// To be called before anything is begun: whatever this process has done is done again. (A variable cannot be removed
/// soundly from a process that runs, and the client of the database reads them whenever it reads a URL.)
///
/// # Errors
/// When the program cannot be run again.
pub fn leave() -> Result<(), Failure> {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).filter(|name| is_postgres(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "fulexo".into());
    // The file that runs, even where another has taken its name; under the name that it was called by.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments);
    for name in names {
        command.env_remove(name);
    }
    let error = command.exec();
    Err(Failure::Failed(format!("cannot start again without the variables of PostgreSQL's clients: {error}")))
}

/// `true` if PostgreSQL's clients read a variable of this name: all of theirs begin so, and no others that matter here.
fn is_postgres(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"PG")
}
