//! Commands, each in a task of its own: a client that leaves ends its waiting, never the command. A stop waits for them.
//!
//! The number of tasks is not limited here: the code that starts one holds a permit in it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

/// The longest that a command may run. Every step of one has a shorter bound of its own (a connection 5 seconds, a statement
/// a minute, an append 45 seconds), so this is reached by a fault alone.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Counts the commands that run.
#[derive(Clone, Default)]
pub struct CommandTasks(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
struct RunningCommand(CommandTasks);

impl CommandTasks {
    /// Runs a command to its end, in the span of the caller.
    pub fn start(&self, command: impl Future<Output = ()> + Send + 'static) {
        self.start_within(LONGEST, command);
    }

    fn start_within(&self, longest: Duration, command: impl Future<Output = ()> + Send + 'static) {
        // Counted before the task first runs: a stop in between must see it.
        self.0.send_modify(|count| *count += 1);
        let running = RunningCommand(self.clone());
        let command = async move {
            let _running = running;
            if timeout(longest, command).await.is_err() {
                tracing::error!(seconds = longest.as_secs(), "a command did not end and was given up");
            }
        };
        tokio::spawn(command.in_current_span());
    }

    /// Returns when none runs any more, or after `patience`; answers how many are left.
    pub async fn ended(&self, patience: Duration) -> usize {
        let mut count = self.0.subscribe();
        let none = count.wait_for(|count| *count == 0);
        // The sender is held here.
        match timeout(patience, none).await {
            Ok(_) => 0,
            Err(_) => *self.0.borrow(),
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let Self(tasks) = self;
        tasks.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_command_runs_to_its_end_and_is_waited_for() {
        let tasks = CommandTasks::default();
        let (go_on, told) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        tasks.start(async {
            told.await.unwrap();
            done.send(()).unwrap();
        });
        assert_eq!(tasks.ended(Duration::from_millis(10)).await, 1);
        go_on.send(()).unwrap();
        assert_eq!(tasks.ended(Duration::from_secs(60)).await, 0);
        is_done.await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_or_panics_is_not_counted_for_ever() {
        let tasks = CommandTasks::default();
        tasks.start_within(Duration::from_millis(10), std::future::pending());
        tasks.start(async { panic!("in the middle") });
        assert_eq!(tasks.ended(Duration::from_secs(60)).await, 0);
    }
}
