//! Password hashing: bcrypt on a bounded pool of threads, so that a flood of logins waits here and nowhere else.
//!
//! A caller takes a permit before anything is counted or hashed. Without a free permit, the caller is told to retry
//! later. No address and no account holds more than its share of the permits. Addresses take turns (`fair_queue.rs`),
//! so that a flood queues after its own requests. While other addresses send requests too, one address has at most half
//! of the threads to itself. Otherwise, the others would find all threads busy between two of their requests.
//! Verification of an unknown account costs the same as that of a known one.
//!
//! Each thread computes on its own. When several passwords wait, a thread takes its share of them and hashes them side
//! by side (`fulexo_bcrypt`): six take little more than twice the time of one. A single password is hashed alone.

mod fair_queue;
mod permits;
use self::fair_queue::{FairQueue, QueueItem};
use self::permits::HashingPermits;
pub use self::permits::{HashingPermit, PERMITS, PERMITS_PER_HOLDER, PermitHolder};
use crate::vault::crypto::{RandomnessError, equal, random_bytes};
use base64::Engine as _;
use fulexo_bcrypt::{HashInput, MAX_LANES};
use fulexo_domain::password::{MAX_BYTES, Password, PasswordViolation};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// The maximum number of one address's hashes in a batch, so that others do not wait for a batch full of them.
const MAX_PER_ORIGIN: usize = MAX_LANES / 2;
/// The time after a request of another address during which threads are kept free for others.
const OTHERS_WINDOW: Duration = Duration::from_secs(1);
/// The length of a verifier's prefix before the hash: version, cost and salt.
const PREFIX_LENGTH: usize = 29;

/// A bounded pool of hashing threads.
pub struct PasswordHasher {
    queue: Arc<JobQueue>,
    permits: Arc<HashingPermits>,
    cost: u32,
    /// The verifier for unknown and locked accounts: of no password, at the same cost.
    dummy: Verifier,
}

/// A bcrypt hash in its usual text form. No `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct Verifier(Zeroizing<String>);

/// The pool or the caller's share of it is full, or its threads are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be hashed")]
pub struct PoolFull;

/// The reason for which no hashing pool starts.
#[derive(Debug, thiserror::Error)]
pub enum HasherError {
    /// The cost is outside bcrypt's range.
    #[error("bcrypt cannot hash at cost {0}")]
    Cost(u32),
    /// The operating system returned no random bytes.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The operating system started no thread.
    #[error("cannot start a hashing thread")]
    Thread(#[source] io::Error),
}

/// The bcrypt implementation in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BcryptEngine {
    /// `fulexo_bcrypt`: several hashes side by side.
    Lanes,
    /// The `bcrypt` crate: one hash after another.
    Crate,
}

struct PoolJob {
    task: PoolTask,
    permit: HashingPermit,
}

enum PoolTask {
    Hash {
        /// The password; at most 72 bytes.
        key: Zeroizing<Vec<u8>>,
        salt: [u8; 16],
        cost: u32,
        reply: oneshot::Sender<Zeroizing<[u8; 24]>>,
    },
    /// Checks a password against the rules, which takes time too.
    Judge { judge: Box<dyn FnOnce() -> Vec<PasswordViolation> + Send>, reply: oneshot::Sender<Vec<PasswordViolation>> },
}

/// The queue of waiting jobs, shared by the threads.
struct JobQueue {
    state: Mutex<JobQueueState>,
    arrived: Condvar,
    /// The maximum number of threads for one origin alone while others send requests too.
    max_alone: usize,
}

#[derive(Default)]
struct JobQueueState {
    waiting: FairQueue<PermitHolder, PoolJob>,
    /// The number of idle threads.
    idle: usize,
    /// The number of threads that each origin has to itself.
    alone: HashMap<PermitHolder, usize>,
    /// The last two different origins, and the times of their latest requests.
    arrivals: [Option<(PermitHolder, Instant)>; 2],
    closed: bool,
}

/// The jobs that a thread works on at once, and their origin if all share one.
struct JobBatch {
    jobs: Vec<PoolJob>,
    alone: Option<PermitHolder>,
}

impl QueueItem for PoolJob {
    /// Hashes at the same cost are computed side by side.
    type BatchKind = Option<u32>;

    fn kind(&self) -> Option<u32> {
        match &self.task {
            PoolTask::Hash { cost, .. } => Some(*cost),
            PoolTask::Judge { .. } => None,
        }
    }

    fn most_at_once(&self) -> usize {
        match &self.task {
            PoolTask::Hash { .. } => MAX_LANES,
            PoolTask::Judge { .. } => 1,
        }
    }

    fn is_wanted(&self) -> bool {
        match &self.task {
            PoolTask::Hash { reply, .. } => !reply.is_closed(),
            PoolTask::Judge { reply, .. } => !reply.is_closed(),
        }
    }
}

impl Verifier {
    /// Takes a stored hash.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text form, for sealing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns its cost.
    #[must_use]
    pub fn cost(&self) -> Option<u32> {
        self.0.split('$').nth(2)?.parse().ok()
    }

    /// Returns its cost and salt, if it is well-formed.
    fn parts(&self) -> Option<(u32, [u8; 16])> {
        let parts: bcrypt::HashParts = self.0.parse().ok()?;
        Some((parts.get_cost(), parts.get_salt_raw())).filter(|_| self.0.len() == 60)
    }

    fn of(cost: u32, salt: [u8; 16], hash: &[u8; 24]) -> Self {
        Self::new(format!("$2b${cost:02}${}{}", bcrypt::BASE_64.encode(salt), *hash_text(hash)))
    }
}

/// Returns the hash in text form, which keeps 23 of the 24 bytes.
fn hash_text(hash: &[u8; 24]) -> Zeroizing<String> {
    Zeroizing::new(bcrypt::BASE_64.encode(hash.split_at(23).0))
}

impl PasswordHasher {
    /// Starts the threads. `cost` is bcrypt's: 2^cost rounds, 4 to 31.
    ///
    /// # Errors
    /// [`HasherError`].
    pub fn start(threads: usize, cost: u32) -> Result<Self, HasherError> {
        if !(4..=31).contains(&cost) {
            return Err(HasherError::Cost(cost));
        }
        let engine = BcryptEngine::tested(fulexo_bcrypt::bcrypt);
        let salt = random_bytes()?;
        let hash = bcrypt::bcrypt(cost, salt, &[0]);
        let dummy = Verifier::of(cost, salt, &hash);
        let threads = threads.max(1);
        let queue = Arc::new(JobQueue::of(threads));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("bcrypt-{number}"))
                .spawn(move || work(&queue, engine))
                .map_err(HasherError::Thread)?;
        }
        Ok(Self { queue, permits: Arc::default(), cost, dummy })
    }

    /// Takes a permit, before any other work for the request. It covers several jobs in sequence.
    ///
    /// # Errors
    /// [`PoolFull`], at once: callers do not wait for a permit.
    pub(crate) fn permit(&self, holder: PermitHolder) -> Result<HashingPermit, PoolFull> {
        self.permits.take(holder).ok_or(PoolFull)
    }

    /// Returns the number of permits that an address or an account holds.
    #[must_use]
    pub(crate) fn held(&self, holder: PermitHolder) -> usize {
        self.permits.held(holder)
    }

    /// Checks a password against the rules, on the hashing threads.
    ///
    /// # Errors
    /// [`PoolFull`] if the threads are gone, or if the check panicked.
    pub async fn judge<F>(&self, judge: F, permit: HashingPermit) -> Result<Vec<PasswordViolation>, PoolFull>
    where
        F: FnOnce() -> Vec<PasswordViolation> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.queue.push(PoolJob { task: PoolTask::Judge { judge: Box::new(judge), reply }, permit });
        // An answer is missing only if the threads are gone.
        answer.await.map_err(|_| PoolFull)
    }

    /// Returns `true` if a verifier has another cost than the configured one.
    #[must_use]
    pub fn is_outdated(&self, verifier: &Verifier) -> bool {
        verifier.cost() != Some(self.cost)
    }

    /// Hashes a new password of at most 72 bytes.
    ///
    /// # Errors
    /// [`PoolFull`] if the threads are gone, or if the password is too long: it is never truncated.
    pub async fn hash(&self, password: Password, permit: HashingPermit) -> Result<Verifier, PoolFull> {
        if password.expose().len() > MAX_BYTES {
            return Err(PoolFull);
        }
        // Treated like missing threads: the caller is told to retry later.
        let salt = random_bytes().map_err(|RandomnessError| PoolFull)?;
        let hash = self.compute(&password, salt, self.cost, permit).await?;
        Ok(Verifier::of(self.cost, salt, &hash))
    }

    /// Returns `true` if the password matches the verifier. Without a verifier, it verifies against a dummy and returns
    /// `false`.
    ///
    /// # Errors
    /// [`PoolFull`] if the threads are gone.
    pub async fn verify(
        &self,
        password: Password,
        verifier: Option<Verifier>,
        permit: HashingPermit,
    ) -> Result<bool, PoolFull> {
        let known = verifier.is_some();
        let verifier = verifier.unwrap_or_else(|| self.dummy.clone());
        let Some((cost, salt)) = verifier.parts() else { return Ok(false) };
        let hash = self.compute(&password, salt, cost, permit).await?;
        let expected = verifier.expose().as_bytes().get(PREFIX_LENGTH..).unwrap_or_default();
        let right = equal(hash_text(&hash).as_bytes(), expected);
        // A guess longer than bcrypt reads is wrong, and costs the same as any other.
        Ok(right && known && password.expose().len() <= MAX_BYTES)
    }

    async fn compute(
        &self,
        password: &Password,
        salt: [u8; 16],
        cost: u32,
        permit: HashingPermit,
    ) -> Result<Zeroizing<[u8; 24]>, PoolFull> {
        let bytes = password.expose().as_bytes();
        let key = Zeroizing::new(bytes.get(..bytes.len().min(MAX_BYTES)).unwrap_or_default().to_vec());
        let (reply, answer) = oneshot::channel();
        self.queue.push(PoolJob { task: PoolTask::Hash { key, salt, cost, reply }, permit });
        // An answer is missing only if the threads are gone.
        answer.await.map_err(|_| PoolFull)
    }
}

impl Drop for PasswordHasher {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_all();
    }
}

impl JobQueue {
    fn lock(&self) -> MutexGuard<'_, JobQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(threads: usize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), max_alone: threads.div_ceil(2) }
    }

    fn push(&self, job: PoolJob) {
        let origin = job.permit.origin();
        let mut state = self.lock();
        state.record_arrival(origin, Instant::now());
        state.waiting.push(origin, job);
        drop(state);
        self.arrived.notify_one();
    }

    /// Returns this thread's share of the waiting jobs, all of one kind. `done` is the origin of its last batch, if
    /// that had the thread to itself. Returns `None` when the pool is closed and no job waits.
    fn take(&self, done: Option<PermitHolder>) -> Option<JobBatch> {
        let mut state = self.lock();
        if let Some(origin) = done {
            state.leave(origin);
        }
        state.idle += 1;
        loop {
            // A caller that went away needs no answer, so the next one gets the time.
            state.waiting.forget_unwanted();
            let kept = state.kept_for_others(self.max_alone, Instant::now());
            if kept.is_none()
                && let Some(batch) = state.take()
            {
                state.idle -= 1;
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = match kept {
                Some(time) => self.arrived.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl JobQueueState {
    fn record_arrival(&mut self, origin: PermitHolder, now: Instant) {
        let [last, one_before] = &mut self.arrivals;
        if last.is_some_and(|(last, _)| last != origin) {
            *one_before = *last;
        }
        *last = Some((origin, now));
    }

    /// Returns the time for which an idle thread is kept free for other origins: when only one origin waits, and it
    /// already has its maximum of threads. The next of these threads to finish takes its jobs.
    fn kept_for_others(&self, max_alone: usize, now: Instant) -> Option<Duration> {
        let origin = self.waiting.only().filter(|_| !self.closed)?;
        if self.alone.get(&origin).is_none_or(|threads| *threads < max_alone) {
            return None;
        }
        let others = self.arrivals.iter().flatten().filter(|(other, _)| *other != origin).map(|(_, at)| *at);
        let left = (others.max()? + OTHERS_WINDOW).saturating_duration_since(now);
        Some(left).filter(|left| !left.is_zero())
    }

    fn take(&mut self) -> Option<JobBatch> {
        let share = self.waiting.len().div_ceil(self.idle.max(1));
        let jobs = self.waiting.take(share, MAX_PER_ORIGIN);
        let first = jobs.first()?.permit.origin();
        let alone = Some(first).filter(|first| jobs.iter().all(|job| job.permit.origin() == *first));
        if let Some(origin) = alone {
            *self.alone.entry(origin).or_default() += 1;
        }
        Some(JobBatch { jobs, alone })
    }

    fn leave(&mut self, origin: PermitHolder) {
        if let Entry::Occupied(mut threads) = self.alone.entry(origin) {
            *threads.get_mut() -= 1;
            if *threads.get() == 0 {
                threads.remove();
            }
        }
    }
}

fn work(queue: &JobQueue, engine: BcryptEngine) {
    let mut done = None;
    while let Some(JobBatch { jobs, alone }) = queue.take(done.take()) {
        done = alone;
        let (mut keys, mut replies, mut batch_cost) = (Vec::new(), Vec::new(), 0);
        for PoolJob { task, permit } in jobs {
            match task {
                PoolTask::Hash { key, salt, cost, reply } => {
                    batch_cost = cost;
                    keys.push((key, salt));
                    replies.push((reply, permit));
                }
                PoolTask::Judge { judge, reply } => {
                    // The rules run external code on arbitrary input. If it panics, the sender gets no answer and is told to retry.
                    let judged = catch_unwind(AssertUnwindSafe(judge));
                    drop(permit);
                    if let Ok(broken) = judged {
                        let _ = reply.send(broken);
                    }
                }
            }
        }
        let inputs: Vec<HashInput<'_>> =
            keys.iter().map(|(key, salt)| HashInput { password: key, salt: *salt }).collect();
        if inputs.is_empty() {
            continue;
        }
        for ((reply, permit), hash) in replies.into_iter().zip(engine.hashes(&inputs, batch_cost)) {
            // The permit is free before its owner receives the answer.
            drop(permit);
            let _ = reply.send(Zeroizing::new(hash));
        }
    }
}

impl BcryptEngine {
    /// Returns `Lanes` if they compute the same hashes as the crate. A machine on which they do not must not use them
    /// to decide about logins.
    fn tested(lanes: fn(&[HashInput<'_>], u32) -> Vec<[u8; 24]>) -> Self {
        const COST: u32 = 4;
        let password = |lane: usize| format!("self-test {lane} {}", "x".repeat(12 * lane));
        let passwords: Vec<String> = (0..MAX_LANES).map(password).collect();
        let salt = |lane: usize| [u8::try_from(lane).unwrap_or_default(); 16];
        let inputs: Vec<HashInput<'_>> = passwords
            .iter()
            .enumerate()
            .map(|(lane, password)| HashInput { password: password.as_bytes(), salt: salt(lane) })
            .collect();
        if lanes(&inputs, COST) == Self::Crate.hashes(&inputs, COST) {
            Self::Lanes
        } else {
            tracing::error!("interleaved bcrypt differs from the bcrypt crate on this machine; using the crate");
            Self::Crate
        }
    }

    fn hashes(self, inputs: &[HashInput<'_>], cost: u32) -> Vec<[u8; 24]> {
        match self {
            Self::Lanes => fulexo_bcrypt::bcrypt(inputs, cost),
            Self::Crate => inputs.iter().map(|input| crate_hash(*input, cost)).collect(),
        }
    }
}

fn crate_hash(input: HashInput<'_>, cost: u32) -> [u8; 24] {
    let mut key = Zeroizing::new([0; MAX_BYTES + 1]);
    key.iter_mut().zip(input.password).for_each(|(byte, from)| *byte = *from);
    let length = (input.password.len() + 1).min(MAX_BYTES);
    bcrypt::bcrypt(cost, input.salt, key.get(..length).unwrap_or(&[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_alone() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let verifier = hasher.hash(password("right"), hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap();
        assert_eq!(verifier.cost(), Some(4));
        assert!(
            hasher
                .verify(password("right"), Some(verifier.clone()), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
        assert!(
            !hasher
                .verify(password("wrong"), Some(verifier), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
        assert!(
            !hasher.verify(password(""), None, hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap(),
            "the dummy is nobody's"
        );
    }

    #[tokio::test]
    async fn the_crate_reads_our_verifiers_and_we_read_the_crates() {
        let hasher = PasswordHasher::start(1, 5).unwrap();
        let ours = hasher.hash(password("right"), hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap();
        assert!(bcrypt::verify("right", ours.expose()).unwrap());
        for version in ["2a", "2b", "2y"] {
            let theirs = bcrypt::hash_with_salt("right", 5, [7; 16]).unwrap().to_string().replacen("2b", version, 1);
            let theirs = Verifier::new(theirs);
            assert!(
                hasher
                    .verify(password("right"), Some(theirs), hasher.permit(PermitHolder::INTERNAL).unwrap())
                    .await
                    .unwrap()
            );
        }
        let broken = Verifier::new(ours.expose().replace('$', "#"));
        assert!(
            !hasher
                .verify(password("right"), Some(broken), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn each_of_many_waiting_callers_gets_its_own_answer() {
        let hasher = PasswordHasher::start(2, 4).unwrap();
        let costs = [4, 5];
        let verifiers: Vec<Verifier> = (0..100)
            .map(|number| bcrypt::hash_with_salt(format!("p{number}"), costs[number % 2], [number as u8; 16]).unwrap())
            .map(|parts| Verifier::new(parts.to_string()))
            .collect();
        let verify = |number: usize, guess: usize| {
            let permit = hasher.permit(PermitHolder::INTERNAL).unwrap();
            hasher.verify(password(&format!("p{guess}")), verifiers.get(number).cloned(), permit)
        };
        let right = join_all((0..100).map(|number| verify(number, number))).await;
        assert!(right.into_iter().all(|right| right == Ok(true)));
        let wrong = join_all((0..100).map(|number| verify(number, number + 1))).await;
        assert!(wrong.into_iter().all(|right| right == Ok(false)));
    }

    #[test]
    fn a_machine_that_computes_wrongly_falls_back_to_the_crate() {
        assert_eq!(BcryptEngine::tested(fulexo_bcrypt::bcrypt), BcryptEngine::Lanes);
        let flips_a_bit = |inputs: &[HashInput<'_>], cost: u32| {
            let mut hashes = fulexo_bcrypt::bcrypt(inputs, cost);
            hashes.iter_mut().skip(5).for_each(|hash| hash[22] ^= 1);
            hashes
        };
        assert_eq!(BcryptEngine::tested(flips_a_bit), BcryptEngine::Crate);
    }

    #[tokio::test]
    async fn a_password_that_bcrypt_would_truncate_is_wrong() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let longest = "x".repeat(72);
        let verifier = hasher.hash(password(&longest), hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap();
        assert!(
            hasher
                .verify(password(&longest), Some(verifier.clone()), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
        let longer = format!("{longest}x");
        assert!(
            !hasher
                .verify(password(&longer), Some(verifier), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
        assert!(hasher.hash(password(&longer), hasher.permit(PermitHolder::INTERNAL).unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn a_check_runs_on_the_pool_and_its_panic_ends_no_thread() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let judged =
            hasher.judge(|| vec![PasswordViolation::Common], hasher.permit(PermitHolder::INTERNAL).unwrap()).await;
        assert_eq!(judged, Ok(vec![PasswordViolation::Common]));
        let panicked = hasher.judge(|| panic!("foreign code"), hasher.permit(PermitHolder::INTERNAL).unwrap()).await;
        assert_eq!(panicked, Err(PoolFull));
        let verifier = hasher.hash(password("right"), hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap();
        assert!(
            hasher
                .verify(password("right"), Some(verifier), hasher.permit(PermitHolder::INTERNAL).unwrap())
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_releases_its_permit() {
        let hasher = PasswordHasher::start(1, 4).unwrap();
        let holder = PermitHolder { network: Some([192, 0, 2, 1].into()), account: None };
        // On a busy machine a hash may end before its caller goes away. Not all do.
        let goes_away = |_: &usize| {
            let permit = hasher.permit(holder).unwrap();
            hasher.verify(password("right"), None, permit).now_or_never().is_none()
        };
        assert!((0..PERMITS_PER_HOLDER).filter(goes_away).count() > 0);
        assert!(!hasher.verify(password("right"), None, hasher.permit(PermitHolder::INTERNAL).unwrap()).await.unwrap());
        assert_eq!(hasher.held(holder), 0);
    }

    #[test]
    fn while_others_come_an_origin_has_half_of_the_threads_to_itself() {
        let (permits, queue) = (Arc::<HashingPermits>::default(), JobQueue::of(2));
        let holder = |last: u8| PermitHolder { network: Some([192, 0, 2, last].into()), account: None };
        let mut answers = Vec::new();
        let mut push = |last: u8| {
            let (reply, answer) = oneshot::channel();
            let permit = permits.take(holder(last)).unwrap();
            queue.push(PoolJob {
                task: PoolTask::Hash { key: Zeroizing::default(), salt: [0; 16], cost: 4, reply },
                permit,
            });
            answers.push(answer);
        };
        let kept = |later| queue.lock().kept_for_others(queue.max_alone, Instant::now() + later);
        (0..9).for_each(|_| push(1));
        let [first, second] = [queue.take(None).unwrap(), queue.take(None).unwrap()];
        assert!([&first, &second].iter().all(|batch| batch.alone == Some(holder(1))), "nobody else is there");
        push(2);
        let mixed = queue.take(second.alone).unwrap();
        assert!(mixed.alone.is_none() && mixed.jobs.len() > 1);
        (0..9).for_each(|_| push(1));
        assert!(kept(Duration::ZERO).is_some(), "the other thread is its own already");
        assert!(kept(OTHERS_WINDOW).is_none(), "the others come no longer");
        let own = queue.take(first.alone).unwrap();
        assert!(own.alone == Some(holder(1)), "the thread that was its own still is");
        push(3);
        assert!(kept(Duration::ZERO).is_none());
        assert!(queue.take(None).unwrap().jobs.iter().any(|job| job.permit.origin() == holder(3)));
    }
}
