//! A directory that one process at a time may use, and the files in it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The failure to start a private server, with advice. It has no secret.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A missing program, and its Debian package.
    #[error("{0} is not installed. Install it with `apt-get install {1}`")]
    Missing(&'static str, &'static str),
    /// A directory that another process uses.
    #[error("{} is in use by another fulexo. Stop it, or choose another data directory", .0.display())]
    Locked(PathBuf),
    /// A directory with files of others, or of another owner.
    #[error("{} has other files or belongs to another user. Choose another data directory", .0.display())]
    NotOurs(PathBuf),
    /// A program with this process id that has, or may have, the directory's files open.
    #[error("{0}, process {1}, seems to use {path} and was not stopped. Stop it, then start again", path = .2.display())]
    Held(&'static str, u32, PathBuf),
    /// A start by root without a user for the servers.
    #[error(
        "the servers cannot run as root, and there is no user postgres or nobody. Run `apt-get install postgresql`"
    )]
    NoUser,
    /// A failed program: its name, its failure, its log, and the last lines of the log.
    #[error("{0} {1}; {path} ends with:\n{3}", path = .2.display())]
    Failed(&'static str, &'static str, PathBuf, String),
    /// A failed action on a file.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, io::Error),
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |cause| ServerError::Io(action, path, cause)
}

/// A lock that ends when it is dropped, and not with the last copy of its file: a child of this process has one between fork and
/// exec.
#[derive(Debug)]
struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file does the same, later.
        let _ = self.0.unlock();
    }
}

/// A directory that one process at a time may use. Clones share the lock, and a running server keeps a
/// clone.
#[derive(Clone)]
pub struct DataDir {
    path: PathBuf,
    _lock: Arc<DirectoryLock>,
}

impl DataDir {
    /// Creates or reopens the directory, mode 0700 and ignored by git, and locks it.
    ///
    /// Refuses one that another process holds, that belongs to another user, or that holds other files.
    pub fn open(path: &Path) -> Result<DataDir, ServerError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        let path = private_dir(path)?;
        let owner = fs::metadata(&path).map_err(io_error("read", &path))?.uid();
        let occupied = fs::read_dir(&path).map_err(io_error("read", &path))?.next().is_some();
        let lock_path = path.join("lock");
        if (occupied && !lock_path.exists()) || effective_uid() != Some(owner) {
            return Err(ServerError::NotOurs(path));
        }
        let lock = append_to(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServerError::Locked(path)),
            Err(TryLockError::Error(cause)) => return Err(io_error("lock", &lock_path)(cause)),
        }
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&path, private).map_err(io_error("protect", &path))?;
        store(&path.join(".gitignore"), "*\n", None)?;
        Ok(DataDir { path, _lock: Arc::new(DirectoryLock(lock)) })
    }

    /// Replaces a file in the directory as a whole, mode 0600.
    ///
    /// # Errors
    /// An I/O error that names the failed action and the file.
    pub fn store(&self, name: &str, text: &str) -> Result<(), ServerError> {
        store(&self.path.join(name), text, None)
    }

    /// Removes a file of the directory, if it is there.
    ///
    /// # Errors
    /// An I/O error that names the failed action and the file.
    pub fn remove(&self, name: &str) -> Result<(), ServerError> {
        remove(&self.path.join(name))
    }

    /// The directory's real path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A free TCP port of 127.0.0.1. Anybody may take it before the caller does.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// An account of the system, for a server that must not run as root.
#[derive(Clone, Copy)]
pub(crate) struct SystemUser {
    pub uid: u32,
    pub gid: u32,
}

pub(crate) fn private_dir(path: &Path) -> Result<PathBuf, ServerError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() != ErrorKind::AlreadyExists => Err(io_error("create", path)(cause)),
        _ => path.canonicalize().map_err(io_error("open", path)),
    }
}

pub(crate) fn append_to(path: &Path) -> Result<File, ServerError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path).map_err(io_error("open", path))
}

pub(crate) fn remove(path: &Path) -> Result<(), ServerError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(cause)),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole, mode 0600. In a server's home the names belong to its user, so nothing
/// found there is opened: the new file is made exclusively, then renamed.
pub(crate) fn store(path: &Path, text: &str, owner: Option<SystemUser>) -> Result<(), ServerError> {
    let new = path.with_added_extension("new");
    remove(&new)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        if let Some(user) = owner {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(io_error("write", path))
}

/// The first of `dirs`, then of PATH, that has `program`.
pub(crate) fn find(program: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut files = dirs.into_iter().chain(std::env::split_paths(&search)).map(|dir| dir.join(program));
    files.find(|file| file.is_absolute() && file.is_file())
}

pub(crate) fn effective_uid() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}
