//! Those who took copies of events: counted in the transaction of the event, so that a person who is erased learns who may have
//! theirs.

use chrono::{DateTime, Utc};
use fulexo_domain::erasure::{CopyHolder, CopyHolderKind, CopyHolders};
use fulexo_domain::event::Actor;
use fulexo_domain::values::AccountId;
use sqlx::{PgConnection, PgPool};

/// Counts a copy.
pub(crate) async fn count(
    connection: &mut PgConnection,
    by: Actor,
    last: Option<u64>,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (kind, id) = match by {
        Actor::Account { id } => (CopyHolderKind::Account, id),
        Actor::ApiKey { id } => (CopyHolderKind::ApiKey, id),
        // They take none through the API.
        Actor::Anonymous | Actor::Operator | Actor::System => return Ok(()),
    };
    sqlx::query!(
        "insert into log.copy_holder as held (kind, holder_id, last_position, copies, last_at) values ($1, $2, $3, 1, $4)
         on conflict on constraint copy_holder_pkey do update
         set copies = held.copies + 1, last_at = greatest(held.last_at, excluded.last_at),
             last_position = case when held.last_position is not null and excluded.last_position is not null
                                  then greatest(held.last_position, excluded.last_position) end",
        kind.as_str(),
        id,
        last.and_then(|last| i64::try_from(last).ok()),
        at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns those whose copies may have events of the account: all that do not end before its first one.
pub(crate) async fn holders(pool: &PgPool, account: AccountId) -> Result<CopyHolders, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select kind, holder_id, copies, last_at, count(*) over () as "count!" from log.copy_holder
           where last_position is null or last_position >= (
               select position from log.event where stream_id = $1 and category = 'account' order by version limit 1)
           order by last_at desc, holder_id limit $2"#,
        account.0,
        i64::from(CopyHolders::MOST)
    )
    .fetch_all(pool)
    .await?;
    let count = rows.first().map_or(0, |row| row.count.unsigned_abs());
    let latest = rows.into_iter().map(|row| {
        let kind =
            if row.kind == CopyHolderKind::ApiKey.as_str() { CopyHolderKind::ApiKey } else { CopyHolderKind::Account };
        CopyHolder { kind, id: row.holder_id, copies: row.copies.unsigned_abs(), last_at: row.last_at }
    });
    Ok(CopyHolders { count, latest: latest.collect() })
}
