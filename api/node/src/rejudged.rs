//! Callers judged again while their request lasts, as a new request with the same credential would be. It counts no request.

use std::sync::Arc;
use std::time::Duration;

use fulexo_domain::permission::Permissions;
use tokio::time::timeout;

use crate::caller::{Auditor, Authority, Credential, judge, require_all, require_stepped_up, standing_of};
use crate::clock;
use crate::http::Problem;
use crate::state::App;

/// The time limit of a judgement: a caller whom nobody can judge is refused.
const PATIENCE: Duration = Duration::from_secs(3);

impl Authority {
    /// Judges whether the caller may still do what needs these permissions; with none, what callers may do with their own
    /// account.
    ///
    /// # Errors
    /// The refusal of a new request: 401 once the token, the session or the API key has ended or the account is suspended,
    /// 403 without the permission or where a step-up is due, 503 during a lockdown or if nobody can decide.
    pub async fn require_still(&self, app: &App, needs: Permissions) -> Result<(), Problem> {
        let unknown = || Problem::unavailable(Duration::from_secs(1));
        let judged = async {
            // One at a time: where memory does not suffice, the tables decide, and not only about streams.
            let _turn = app.streams.judging.acquire().await.map_err(|_| unknown())?;
            let permissions = match &self.credential {
                Credential::AccessToken(claims) => {
                    if !app.commands.keys().is_still_valid(claims, clock::now()) {
                        return Err(Problem::invalid_token());
                    }
                    let caller = judge(app, Arc::clone(claims)).await?.ok_or_else(Problem::invalid_token)?;
                    require_stepped_up(caller)?.permissions
                }
                Credential::ApiKey(key) => standing_of(app, *key).await?.ok_or_else(Problem::invalid_token)?.0,
                Credential::AuditorToken => Auditor::permissions(),
            };
            require_all(permissions, needs)
        };
        timeout(PATIENCE, judged).await.unwrap_or_else(|_| Err(unknown()))
    }
}
