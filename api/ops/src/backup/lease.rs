//! The right to write into a bucket: an object, written where there is none, and renewed while the run lasts. One that was not
//! renewed for its time is that of a run that died. Times are the store's.
//!
//! A store that does not know the condition lets two runs take it that begin within the same moment. The one whose object is written
//! over notices at its next renewal, or before its manifest, and ends without a backup.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use fulexo_domain::jetstream::hex;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use super::error::BackupError;
use crate::s3::S3Client;

/// The key of the lock.
const LOCK: &str = "lock";
/// The time for which it holds without a renewal, and that between renewals.
const LEASE: Duration = Duration::from_secs(300);
const RENEWAL: Duration = Duration::from_secs(60);
/// The longest time that another lock may ask for.
const MAX_LEASE: Duration = Duration::from_secs(3_600);
/// The longest lock that is read, in bytes.
const MAX_LOCK: usize = 4_096;
/// The attempts to take the lock of a run that has died.
const ATTEMPTS: usize = 3;

#[derive(Deserialize, Serialize)]
struct LockObject {
    /// A random number in hexadecimal.
    holder: String,
    /// The seconds for which it holds without a renewal.
    lease_seconds: u64,
}

/// The right to write. It ends when it is dropped.
pub struct BucketLease {
    client: S3Client,
    holder: String,
    is_lost: Arc<AtomicBool>,
    /// Ends the renewals when it is dropped.
    stop: Option<Sender<()>>,
    renewals: Option<JoinHandle<()>>,
}

impl BucketLease {
    /// Takes the right to write.
    pub fn take(client: &S3Client) -> Result<Self, BackupError> {
        let path = PathBuf::from(client.display(LOCK));
        let failed = || BackupError::file("lock", &path);
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random).map_err(|_| BackupError::Crypto("there is no randomness".to_owned()))?;
        let holder = hex(&random);
        for _ in 0..ATTEMPTS {
            // Asked first, for stores that do not know the condition.
            match held(client).map_err(failed())? {
                Some(lock) if lock.holder == holder => return Self::start(client, holder),
                Some(lock) if lock.is_alive => return Err(BackupError::Locked(PathBuf::from(client.display("")))),
                Some(_) => client.delete(LOCK).map_err(|error| failed()(error.into()))?,
                None => {}
            }
            match client.put_new(LOCK, object(&holder)) {
                Ok(()) => {}
                // Somebody was quicker, or the answer to an earlier attempt was lost.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(failed()(error.into())),
            }
        }
        Err(BackupError::Locked(PathBuf::from(client.display(""))))
    }

    fn start(client: &S3Client, holder: String) -> Result<Self, BackupError> {
        let (stop, stopped) = channel();
        let is_lost = Arc::new(AtomicBool::new(false));
        let (client_of_thread, holder_of_thread, lost) = (client.clone(), holder.clone(), Arc::clone(&is_lost));
        let renew = move || {
            let mut renewed = Instant::now();
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                let client = &client_of_thread;
                match held(client) {
                    Ok(Some(lock)) if lock.holder == holder_of_thread => {
                        let began = Instant::now();
                        if client.put(LOCK, object(&holder_of_thread)).is_ok() {
                            renewed = began;
                        }
                    }
                    Ok(_) => return lost.store(true, Ordering::SeqCst),
                    Err(_) => {}
                }
                if renewed.elapsed() >= LEASE {
                    return lost.store(true, Ordering::SeqCst);
                }
            }
        };
        let renewals = thread::Builder::new().name("lease".to_owned()).spawn(renew).map_err(|_| BackupError::Task)?;
        Ok(Self { client: client.clone(), holder, is_lost, stop: Some(stop), renewals: Some(renewals) })
    }

    /// Fails if somebody else has the right by now.
    pub fn check(&self) -> Result<(), BackupError> {
        let path = PathBuf::from(self.client.display(LOCK));
        let is_ours = !self.is_lost.load(Ordering::SeqCst)
            && held(&self.client)
                .map_err(BackupError::file("read", &path))?
                .is_some_and(|lock| lock.holder == self.holder);
        if is_ours { Ok(()) } else { Err(BackupError::Locked(PathBuf::from(self.client.display("")))) }
    }
}

impl Drop for BucketLease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewals) = self.renewals.take() {
            let _ = renewals.join();
        }
        // What cannot be removed now, ends by itself.
        if matches!(held(&self.client), Ok(Some(lock)) if lock.holder == self.holder) {
            let _ = self.client.delete(LOCK);
        }
    }
}

/// A lock that somebody has.
struct HeldLock {
    holder: String,
    /// `true` if it was renewed within its time.
    is_alive: bool,
}

/// Reads the lock. One that is not ours to read holds for the usual time.
fn held(client: &S3Client) -> std::io::Result<Option<HeldLock>> {
    let Some((bytes, head)) = client.get(LOCK, MAX_LOCK)? else { return Ok(None) };
    let lock: Option<LockObject> = serde_json::from_slice(&bytes).ok();
    let lease = lock.as_ref().map_or(LEASE, |lock| Duration::from_secs(lock.lease_seconds).min(MAX_LEASE));
    let is_alive = head.age.unwrap_or_default() < lease;
    Ok(Some(HeldLock { holder: lock.map(|lock| lock.holder).unwrap_or_default(), is_alive }))
}

fn object(holder: &str) -> Bytes {
    let lock = LockObject { holder: holder.to_owned(), lease_seconds: LEASE.as_secs() };
    Bytes::from(serde_json::to_vec(&lock).unwrap_or_default())
}
