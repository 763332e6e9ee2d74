//! The record of copies of events: an event in the log before anything of the copy is given away.

use fulexo_commands::EventCopy;
use poem::Request;
use tokio::time::Instant;

use crate::caller::{Authority, Credential, context};
use crate::http::Problem;
use crate::state::App;

impl App {
    /// Records that the caller begins to take a copy. Whoever replays the trail has all of it already.
    ///
    /// # Errors
    /// The log's: nothing may be given away then.
    pub async fn record_copy(&self, request: &Request, caller: &Authority, copy: EventCopy) -> Result<(), Problem> {
        if matches!(caller.credential, Credential::AuditorToken) {
            return Ok(());
        }
        let holder = caller.actor.id().unwrap_or_default();
        let now = Instant::now();
        if copy.form.goes_on() && self.copies.stands(holder, &copy, now) {
            return Ok(());
        }
        self.commands.record_copy(&context(request, caller.actor, None)?, copy.clone()).await?;
        if copy.form.goes_on() {
            self.copies.remember(holder, copy, now);
        }
        Ok(())
    }
}
