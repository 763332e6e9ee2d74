//! The initial state of a gate, read from the tables in one snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock};

use chrono::{DateTime, TimeDelta, Utc};
use fulexo_database::begin;
use fulexo_domain::policy::ActivePolicy;
use fulexo_domain::values::{AccountId, ApiKeyId, RoleName, SessionId};
use sqlx::PgPool;

use super::Gate;
use super::elevation::{Elevation, SecondFactorValidity};
use super::memory::{ActiveApiKey, ChangeSubject, GateMemory, MAX_CHANGES};
use crate::as_of::first_position_in;
use crate::feed::FeedError;
use crate::{access, feed};

/// The longest elevation that the policy allows.
const LONGEST_ELEVATION: TimeDelta = TimeDelta::minutes(60);

impl Gate {
    /// Reads the changes within the life of an access token from the tables. The tables judge older tokens, however
    /// long this node's clock and settings let them live.
    ///
    /// # Errors
    /// [`FeedError`]: the database failed, or the end of the log cannot be read.
    pub async fn open(
        pool: &PgPool,
        token_lifetime: TimeDelta,
        policy: Arc<ActivePolicy>,
        now: DateTime<Utc>,
    ) -> Result<Self, FeedError> {
        // Tokens are accepted up to a minute past their end, and recorded times may lag the clock by another minute.
        let relevant_for = token_lifetime.max(LONGEST_ELEVATION) + TimeDelta::minutes(2);
        let most = i64::try_from(MAX_CHANGES).unwrap_or(i64::MAX);
        let mut transaction = begin(pool).await?;
        // One snapshot: everything read below is the state at this position.
        sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *transaction).await?;
        let head = sqlx::query!("select position, epoch from log.head").fetch_one(&mut *transaction).await?;
        let (applied, epoch) = (head.position.unsigned_abs(), head.epoch.into());
        let last = match applied.checked_sub(1) {
            Some(last) => feed::read(&mut transaction, last, 1).await?.first().map(|event| event.id),
            None => None,
        };
        let learnt_from = first_position_in(&mut transaction, |recorded_at| recorded_at > now - relevant_for).await?;
        let ended = sqlx::query!(
            r#"select session_id, ended_position as "position!", ended_at as "at!" from access.session
               where ended_at > $1 order by ended_at desc limit $2"#,
            now - relevant_for,
            most
        )
        .fetch_all(&mut *transaction)
        .await?;
        let changed = sqlx::query!(
            r#"select a.account_id, a.changed_position, a.changed_at, a.suspended, a.sessions_from, a.except_session,
                      a.second_factor_from, a.second_factor_session, a.second_factor_enabled,
                      array(select g.role from access.role_grant g where g.account_id = a.account_id) as "roles!"
               from access.account a where a.changed_at > $1 order by a.changed_at desc limit $2"#,
            now - relevant_for,
            most
        )
        .fetch_all(&mut *transaction)
        .await?;
        let elevated = sqlx::query!(
            r#"select session_id, elevated_until as "until!", elevated_position as "position!", restored_position
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
                      coalesce(a.suspended, false) as "creator_suspended!"
               from access.api_key k left join access.account a on a.account_id = k.created_by
               where k.revoked_at is null and k.expires_at > $1"#,
            now
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;

        if let Some((_, changed)) = changed_policy {
            policy.update(&changed);
        }
        let mut memory = GateMemory {
            policy: policy.get(),
            lockdown: lockdown.map_or((None, 0), |lockdown| (lockdown.scope, lockdown.position)),
            epoch,
            is_replaced: false,
            applied,
            last,
            lease_ends: None,
            horizon: learnt_from,
            ended: HashMap::new(),
            elevations: HashMap::new(),
            elevations_incomplete_until: None,
            accounts: HashMap::new(),
            custom_changed: custom.iter().map(|role| (role.role.clone(), role.position)).collect(),
            custom: custom.into_iter().filter(|role| !role.retired).map(|role| (role.role, role.permissions)).collect(),
            keys: keys
                .into_iter()
                .map(|key| {
                    let known = ActiveApiKey {
                        permissions: access::permissions(&key.permissions),
                        expires_at: key.expires_at,
                        creator: key.created_by.map(AccountId),
                        // Every event that this snapshot lacks comes after all events that it has.
                        creator_suspended: (applied.saturating_sub(1), key.creator_suspended),
                    };
                    (ApiKeyId(key.key_id), known)
                })
                .collect(),
            revoked_keys: HashSet::new(),
            ages: BTreeMap::new(),
        };
        // A full result may be incomplete: changes older than its oldest row are unknown here.
        let bound =
            |oldest: Option<i64>, rows: usize| if rows < MAX_CHANGES { 0 } else { oldest.map_or(0, i64::unsigned_abs) };
        memory.horizon = memory
            .horizon
            .max(bound(ended.last().map(|row| row.position), ended.len()))
            .max(bound(changed.last().map(|row| row.changed_position), changed.len()));
        for row in ended {
            memory.remember(row.position.unsigned_abs(), row.at, ChangeSubject::Session(SessionId(row.session_id)));
        }
        if changed.len() >= MAX_CHANGES {
            memory.elevations_incomplete_until = changed.last().map(|row| row.changed_at + relevant_for);
        }
        for row in changed {
            let (account, position) = (AccountId(row.account_id), row.changed_position.unsigned_abs());
            // A name that this build does not know allows nothing.
            let roles = row.roles.iter().filter_map(|role| RoleName::parse(role).ok()).collect();
            memory.remember(position, row.changed_at, ChangeSubject::Account(account));
            let known = memory.accounts.entry(account).or_default();
            known.base_roles = Some((position, roles));
            known.sessions_revoked = Some((row.sessions_from.unsigned_abs(), row.except_session.map(SessionId)));
            known.suspended = (position, row.suspended);
            known.second_factor = SecondFactorValidity {
                valid_from: row.second_factor_from.unsigned_abs(),
                except_session: row.second_factor_session.map(SessionId),
                enabled: row.second_factor_enabled,
            };
        }
        if elevated.len() >= MAX_CHANGES {
            memory.elevations_incomplete_until =
                memory.elevations_incomplete_until.max(elevated.last().map(|row| row.until));
        }
        for row in elevated {
            let restored = row.restored_position.map(i64::unsigned_abs);
            let elevation = Elevation { position: row.position.unsigned_abs(), until: row.until, restored };
            memory.elevations.insert(SessionId(row.session_id), elevation);
            memory.ages.entry(elevation.position).or_insert((now, ChangeSubject::Elevation(SessionId(row.session_id))));
        }
        memory.trim(now, relevant_for);
        Ok(Self { memory: RwLock::new(memory), policy, relevant_for })
    }
}
