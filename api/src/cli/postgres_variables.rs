//! The variables of PostgreSQL's own clients, such as `PGOPTIONS` and `PGSSLMODE`. They are meant for other databases of the
//! user. A verb that works on a private database restarts itself without them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::failure::Failure;

/// Returns if there are no such variables. Otherwise replaces this process by the same program with the same arguments and
/// without the variables.
///
/// Call it before anything else: the new process starts from the beginning. (A running process cannot remove a variable
/// soundly, and the database client reads the variables whenever it parses a URL.)
///
/// # Errors
/// If the program cannot be started again.
pub fn leave() -> Result<(), Failure> {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).filter(|name| is_postgres(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "fulexo".into());
    // The running file, even if another file has replaced it, under the name by which it was called.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments);
    for name in names {
        command.env_remove(name);
    }
    let error = command.exec();
    Err(Failure::Failed(format!("cannot restart without the variables of PostgreSQL's clients: {error}")))
}

/// `true` if PostgreSQL's clients read a variable of this name. All of their variables begin with `PG`.
fn is_postgres(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"PG")
}
