//! How a gate begins: with what the tables say of the time that matters, read in one snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_domain::policy::InForce;
use fulexo_domain::values::{AccountId, ApiKeyId, RoleName, SessionId};
use sqlx::PgPool;

use super::Gate;
use super::elevation::{Elevation, SecondFactorMark};
use super::memory::{Key, MOST, Memory, Subject};
use crate::as_of::first_in;
use crate::feed::FeedError;
use crate::{access, feed};

/// The longest that the policy lets an elevation last.
const LONGEST_ELEVATION: TimeDelta = TimeDelta::minutes(60);

impl Gate {
    /// Learns from the tables what has changed within the life of an access token. Tokens that are older than that are for
    /// the tables, whatever this node's clock and settings say of how long they live.
    ///
    /// # Errors
    /// The database, or a log whose end cannot be read.
    pub async fn open(
        pool: &PgPool,
        token_lifetime: TimeDelta,
        policy: Arc<InForce>,
        now: DateTime<Utc>,
    ) -> Result<Self, FeedError> {
        // Tokens are accepted a minute past their end; recorded times may lag behind the clock by as much again.
        let relevant_for = token_lifetime.max(LONGEST_ELEVATION) + TimeDelta::minutes(2);
        let most = i64::try_from(MOST).unwrap_or(i64::MAX);
        let mut transaction = pool.begin().await?;
        // One snapshot: what is read below is the state at this very position.
        sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
        let head = sqlx::query!("select position, epoch from log.head").fetch_one(&mut *transaction).await?;
        let (applied, epoch) = (head.position.unsigned_abs(), head.epoch.into());
        let last = match applied.checked_sub(1) {
            Some(last) => feed::read(&mut transaction, last, 1).await?.first().map(|event| event.id),
            None => None,
        };
        let learnt_from = first_in(&mut transaction, |recorded_at| recorded_at > now - relevant_for).await?;
        let ended = sqlx::query!(
            r#"select session_id, ended_position as "position!", ended_at as "at!" from access.session
               where ended_at > $1 order by ended_at desc limit $2"#,
            now - relevant_for,
            most
        )
        .fetch_all(&mut *transaction)
        .await?;
        let changed = sqlx::query!(
            r#"select a.account_id, a.changed_position, a.changed_at, a.suspended, a.sessions_from, a.kept_session,
                      a.second_factor_from, a.second_factor_session, a.second_factor_enabled,
                      array(select g.role from access.role_grant g where g.account_id = a.account_id) as "roles!"
               from access.account a where a.changed_at > $1 order by a.changed_at desc limit $2"#,
            now - relevant_for,
            most
        )
        .fetch_all(&mut *transaction)
        .await?;
        let elevated = sqlx::query!(
            r#"select session_id, elevated_until as "until!", elevated_position as "position!", released_position
               from access.session
               where elevated_until > $1 and ended_at is null order by elevated_until desc limit $2"#,
            now - relevant_for,
            most
        )
        .fetch_all(&mut *transaction)
        .await?;
        let custom = access::custom_roles(&mut transaction).await?;
        let changed_policy = access::policy(&mut transaction).await?;
        let lockdown = access::lockdown(&mut transaction).await?;
        let keys = sqlx::query!(
            r#"select k.key_id, k.permissions, k.expires_at, k.created_by,
                      coalesce(a.suspended, false) as "maker_suspended!"
               from access.api_key k left join access.account a on a.account_id = k.created_by
               where k.revoked_at is null and k.expires_at > $1"#,
            now
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;

        if let Some((_, changed)) = changed_policy {
            policy.learn(&changed);
        }
        let mut memory = Memory {
            policy: policy.get(),
            lockdown: lockdown.map_or((None, 0), |lockdown| (lockdown.scope, lockdown.position)),
            epoch,
            is_replaced: false,
            applied,
            last,
            lease_ends: None,
            horizon: learnt_from,
            ended: HashMap::new(),
            elevated: HashMap::new(),
            elevations_lost_until: None,
            accounts: HashMap::new(),
            custom_changed: custom.iter().map(|role| (role.role.clone(), role.position)).collect(),
            custom: custom.into_iter().filter(|role| !role.retired).map(|role| (role.role, role.permissions)).collect(),
            keys: keys
                .into_iter()
                .map(|key| {
                    let known = Key {
                        permissions: access::permissions(&key.permissions),
                        expires_at: key.expires_at,
                        maker: key.created_by.map(AccountId),
                        // What this snapshot does not have comes after all that it has.
                        maker_suspended: (applied.saturating_sub(1), key.maker_suspended),
                    };
                    (ApiKeyId(key.key_id), known)
                })
                .collect(),
            revoked_keys: HashSet::new(),
            ages: BTreeMap::new(),
        };
        // A full answer means that there may be more: what is older than the oldest row is not known here.
        let bound =
            |oldest: Option<i64>, rows: usize| if rows < MOST { 0 } else { oldest.map_or(0, i64::unsigned_abs) };
        memory.horizon = memory
            .horizon
            .max(bound(ended.last().map(|row| row.position), ended.len()))
            .max(bound(changed.last().map(|row| row.changed_position), changed.len()));
        for row in ended {
            memory.remember(row.position.unsigned_abs(), row.at, Subject::Session(SessionId(row.session_id)));
        }
        if changed.len() >= MOST {
            memory.elevations_lost_until = changed.last().map(|row| row.changed_at + relevant_for);
        }
        for row in changed {
            let (account, position) = (AccountId(row.account_id), row.changed_position.unsigned_abs());
            let roles = row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect();
            memory.remember(position, row.changed_at, Subject::Account(account));
            let known = memory.accounts.entry(account).or_default();
            known.base = Some((position, roles));
            known.sessions = Some((row.sessions_from.unsigned_abs(), row.kept_session.map(SessionId)));
            known.suspended = (position, row.suspended);
            known.second_factor = SecondFactorMark {
                from: row.second_factor_from.unsigned_abs(),
                kept: row.second_factor_session.map(SessionId),
                enabled: row.second_factor_enabled,
            };
        }
        if elevated.len() >= MOST {
            memory.elevations_lost_until = memory.elevations_lost_until.max(elevated.last().map(|row| row.until));
        }
        for row in elevated {
            let released = row.released_position.map(i64::unsigned_abs);
            let elevation = Elevation { position: row.position.unsigned_abs(), until: row.until, released };
            memory.elevated.insert(SessionId(row.session_id), elevation);
            memory.ages.entry(elevation.position).or_insert((now, Subject::Elevation(SessionId(row.session_id))));
        }
        memory.trim(now, relevant_for);
        Ok(Self { memory: RwLock::new(memory), policy, relevant_for })
    }
}
