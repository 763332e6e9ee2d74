//! Password verifiers: bcrypt on a bounded pool of threads, so that a flood of logins waits here and nowhere else.
//!
//! A place in the pool is taken before anything is counted or hashed; when there is none, the caller is told to
//! come back. Verifying against nobody costs what verifying against somebody does.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fulexo_domain::password::{LONGEST_BYTES, Password};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use zeroize::Zeroizing;

use crate::vault::crypto::random_bytes;

/// Logins waiting for a hash, beyond which callers get 503: about six seconds of work for each thread at cost 10.
const WAITING: usize = 256;

/// A bounded pool of hashing threads.
pub struct PasswordHasher {
    jobs: SyncSender<Job>,
    places: Arc<Semaphore>,
    cost: u32,
    /// What unknown and locked accounts are verified against: nobody's, at the same cost.
    dummy: Verifier,
}

/// A bcrypt hash in its usual text form. No `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct Verifier(Zeroizing<String>);

/// A place in the pool: whoever holds one will be served.
pub struct Place(OwnedSemaphorePermit);

/// The pool is full, or its threads are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be hashed")]
pub struct Full;

enum Job {
    Hash(Password, u32, oneshot::Sender<Option<Verifier>>, OwnedSemaphorePermit),
    Verify(Password, Verifier, oneshot::Sender<bool>, OwnedSemaphorePermit),
}

impl Verifier {
    /// Takes a stored hash.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text form, for sealing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The cost it was made with.
    #[must_use]
    pub fn cost(&self) -> Option<u32> {
        self.0.split('$').nth(2)?.parse().ok()
    }
}

impl PasswordHasher {
    /// Starts the threads. `cost` is bcrypt's: 2^cost rounds, 4 to 31.
    ///
    /// # Errors
    /// A cost out of range, or no randomness, or no thread.
    pub fn start(threads: usize, cost: u32) -> Result<Self, String> {
        let password = Password::new(String::new());
        let dummy = hash(&password, cost).ok_or_else(|| format!("bcrypt cannot hash at cost {cost}"))?;
        let (jobs, queue) = sync_channel(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("bcrypt-{number}"))
                .spawn(move || work(&queue))
                .map_err(|error| format!("cannot start a hashing thread: {error}"))?;
        }
        Ok(Self { jobs, places: Arc::new(Semaphore::new(WAITING)), cost, dummy })
    }

    /// Takes a place, before anything else is done for the request.
    ///
    /// # Errors
    /// [`Full`], at once: nobody waits for a place to wait.
    pub fn place(&self) -> Result<Place, Full> {
        Arc::clone(&self.places).try_acquire_owned().map(Place).map_err(|_| Full)
    }

    /// Whether a verifier was made with another cost than the one configured.
    #[must_use]
    pub fn is_outdated(&self, verifier: &Verifier) -> bool {
        verifier.cost() != Some(self.cost)
    }

    /// Hashes a new password, at most 72 bytes long.
    ///
    /// # Errors
    /// [`Full`] when the threads are gone or refuse: a password that is too long is never truncated.
    pub async fn hash(&self, password: Password, place: Place) -> Result<Verifier, Full> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job::Hash(password, self.cost, reply, place.0)).map_err(|_| Full)?;
        answer.await.ok().flatten().ok_or(Full)
    }

    /// Whether the password is the one. With no verifier, a dummy is verified and the answer is no.
    ///
    /// # Errors
    /// [`Full`] when the threads are gone.
    pub async fn verify(&self, password: Password, verifier: Option<Verifier>, place: Place) -> Result<bool, Full> {
        let known = verifier.is_some();
        let verifier = verifier.unwrap_or_else(|| self.dummy.clone());
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job::Verify(password, verifier, reply, place.0)).map_err(|_| Full)?;
        let right = answer.await.map_err(|_| Full)?;
        Ok(right && known)
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job::Hash(password, cost, reply, _place)) => {
                if !reply.is_closed() {
                    let _ = reply.send(hash(&password, cost));
                }
            }
            Ok(Job::Verify(password, verifier, reply, _place)) => {
                // Whoever went away needs no answer, and the next in line gets the time.
                if !reply.is_closed() {
                    let _ = reply.send(verify(&password, &verifier));
                }
            }
            Err(_) => return,
        }
    }
}

fn verify(password: &Password, verifier: &Verifier) -> bool {
    // A guess longer than bcrypt reads is wrong, and costs the same as any other.
    let text = password.expose();
    let end = text.floor_char_boundary(LONGEST_BYTES);
    let right = bcrypt::verify(text.get(..end).unwrap_or_default(), verifier.expose()).unwrap_or(false);
    right && text.len() <= LONGEST_BYTES
}

fn hash(password: &Password, cost: u32) -> Option<Verifier> {
    if password.expose().len() > LONGEST_BYTES {
        return None;
    }
    let salt = random_bytes::<16>().ok()?;
    let parts = bcrypt::hash_with_salt(password.expose(), cost, salt).ok()?;
    Some(Verifier::new(parts.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_alone() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let verifier = hasher.hash(password("right"), hasher.place().unwrap()).await.unwrap();
        assert_eq!(verifier.cost(), Some(4));
        assert!(hasher.verify(password("right"), Some(verifier.clone()), hasher.place().unwrap()).await.unwrap());
        assert!(!hasher.verify(password("wrong"), Some(verifier), hasher.place().unwrap()).await.unwrap());
        assert!(!hasher.verify(password(""), None, hasher.place().unwrap()).await.unwrap(), "the dummy is nobody's");
    }

    #[tokio::test]
    async fn what_bcrypt_would_cut_is_wrong() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let longest = "x".repeat(72);
        let verifier = hasher.hash(password(&longest), hasher.place().unwrap()).await.unwrap();
        assert!(hasher.verify(password(&longest), Some(verifier.clone()), hasher.place().unwrap()).await.unwrap());
        let longer = format!("{longest}x");
        assert!(!hasher.verify(password(&longer), Some(verifier), hasher.place().unwrap()).await.unwrap());
        assert!(hasher.hash(password(&longer), hasher.place().unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn a_full_pool_refuses_at_once() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let places: Vec<_> = (0..WAITING).map(|_| hasher.place().unwrap()).collect();
        assert!(hasher.place().is_err());
        drop(places);
        assert!(hasher.place().is_ok());
    }
}
