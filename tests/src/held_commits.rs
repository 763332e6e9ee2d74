//! Commits that wait in the database until a test has killed their process, and then are lost or recorded.

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

use crate::cluster::Database;
use crate::looking::{eventually, superuser};

/// What becomes of a commit whose process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The process died before: nothing of the transaction is recorded.
    Lost,
    /// The process died after: the transaction is recorded, and nobody was told.
    Recorded,
}

/// A trigger that holds the commit of one event of a kind, for as long as this has the lock.
pub struct HeldCommits {
    pool: PgPool,
    lock: PoolConnection<Postgres>,
}

const LOCK: &str = "select pg_advisory_lock(20267)";
const WAITING: &str = "select pid from pg_locks where locktype = 'advisory' and objid = 20267 and not granted
                       and database = (select oid from pg_database where datname = current_database())";

impl HeldCommits {
    /// Installs the trigger. It holds nothing yet.
    pub async fn on(database: &Database) -> Self {
        let pool = superuser(database).await;
        for statement in [
            "create table public.held (kind text, nth bigint)",
            "create sequence public.held_so_far",
            // Deferred: it runs in the commit, when all of the transaction is done.
            "create function public.hold() returns trigger language plpgsql security definer as $$
             declare
                 leaf json := convert_from(new.leaf, 'UTF8')::json;
             begin
                 -- The ends that follow from a suspension are recorded by whichever node is first.
                 if coalesce(leaf -> 'data' ->> 'by', 'admin') = 'admin' and exists (
                     select from public.held where kind = leaf ->> 'type' and nth = nextval('public.held_so_far'))
                 then
                     perform pg_advisory_xact_lock(20267);
                 end if;
                 return null;
             end $$",
            "create constraint trigger hold after insert on log.event_0 deferrable initially deferred
             for each row execute function public.hold()",
        ] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        let mut lock = pool.acquire().await.unwrap();
        sqlx::query(LOCK).execute(&mut *lock).await.unwrap();
        Self { pool, lock }
    }

    /// Holds the commit of the nth event of this kind from now on.
    pub async fn hold(&self, kind: &str, nth: i64) {
        sqlx::query("alter sequence public.held_so_far restart").execute(&self.pool).await.unwrap();
        sqlx::query("insert into public.held values ($1, $2)").bind(kind).bind(nth).execute(&self.pool).await.unwrap();
    }

    /// Waits until the commit waits.
    pub async fn waits(&self, kind: &str) {
        eventually(kind, async || sqlx::query(WAITING).fetch_optional(&self.pool).await.unwrap().is_some()).await;
    }

    /// Ends the commit, whose process is dead. Later ones are not held.
    pub async fn end(&mut self, fate: Fate) {
        sqlx::query("delete from public.held").execute(&self.pool).await.unwrap();
        match fate {
            Fate::Lost => {
                let end = format!("select pg_terminate_backend(pid) from ({WAITING}) w");
                sqlx::query(sqlx::AssertSqlSafe(end)).execute(&self.pool).await.unwrap();
                let ended = async || sqlx::query(WAITING).fetch_optional(&self.pool).await.unwrap().is_none();
                eventually("the commit is lost", ended).await;
            }
            Fate::Recorded => {
                sqlx::query("select pg_advisory_unlock(20267)").execute(&mut *self.lock).await.unwrap();
                // The commit has it until it has ended.
                sqlx::query(LOCK).execute(&mut *self.lock).await.unwrap();
            }
        }
    }
}
