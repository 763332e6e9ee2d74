//! The rotation of the key that wraps: data keys wrapped again per second by `keys rotate encryption`, against an UPDATE of as many
//! rows in batches of the same size, which opens and wraps nothing. `BENCH_KEYS` sets their number.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fulexo_commands::vault::SymmetricKey;
use fulexo_node::keys::encryption;
use fulexo_node::keys::rotation::{Rotation, RotationStep};
use fulexo_tests::{Database, Node, operator, own_dir, superuser};
use sqlx::PgPool;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::table;

const ROUNDS: usize = 3;
/// The rows of a batch, as in the rotation.
const BATCH: i64 = 500;

pub fn run(runtime: &Runtime) {
    let keys = std::env::var("BENCH_KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000);
    table::head(
        &format!("keys wrapped again per second, of {}", table::number(f64::from(keys))),
        "keys rotate",
        "bare UPDATE",
    );
    let (ours, bare) = runtime.block_on(measure(keys));
    table::line("one node, idle", table::median(ours), table::median(bare), None);
}

async fn measure(keys: u32) -> (Vec<f64>, Vec<f64>) {
    let database = Arc::new(Database::create().await);
    let (dir, mut env) = (own_dir(), database.env());
    let file = dir.path().join("keys");
    let first = env.remove("ENCRYPTION_KEY").unwrap();
    fs::write(&file, format!("first:{first}\n")).unwrap();
    env.insert("ENCRYPTION_KEYS_FILE".into(), file.display().to_string());
    let (node, pool) = (Node::with(&database, env).await, superuser(&database).await);
    plant(&pool, keys, &first).await;
    sqlx::query("insert into vault.key_epoch (kind, key_id) values ('encryption', 'bare')")
        .execute(&pool)
        .await
        .unwrap();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // A key that is coming would be taken for an interrupted rotation.
        sqlx::query("delete from vault.key_epoch where key_id = 'bare'").execute(&pool).await.unwrap();
        let (mut began, mut ended, mut rows) = (None, Instant::now(), 0);
        let mut tell = |step| {
            if let RotationStep::Rewrapped { done, .. } = step {
                began.get_or_insert_with(Instant::now);
                // The first batch is not timed.
                (ended, rows) = (Instant::now(), done);
            }
        };
        let mut rotation = Rotation::begin(node.app(), Duration::from_secs(60), &mut tell).await.unwrap();
        let rotated = encryption::rotate(&mut rotation, &operator()).await.unwrap();
        drop(rotation);
        ours.push((rows as f64 - BATCH as f64) / (ended - began.unwrap()).as_secs_f64());
        sqlx::query("insert into vault.key_epoch (kind, key_id) values ('encryption', 'bare')")
            .execute(&pool)
            .await
            .unwrap();
        bare.push(update(&pool, rotated.to.as_str(), "bare").await);
        bare.push(update(&pool, "bare", rotated.to.as_str()).await);
    }
    node.stop().await;
    (ours, bare)
}

/// Creates so many wrapped data keys.
async fn plant(pool: &PgPool, keys: u32, first: &str) {
    use base64::Engine;
    let kek = base64::engine::general_purpose::STANDARD.decode(first).unwrap();
    let kek = SymmetricKey::from_bytes(kek.try_into().unwrap());
    let ids: Vec<Uuid> = (1..=u128::from(keys)).map(Uuid::from_u128).collect();
    let wrap = |id: &Uuid| {
        let context = format!("fulexo/data-key/1/subject/{id}");
        kek.wrap(context.as_bytes(), &SymmetricKey::random().unwrap()).unwrap()
    };
    let wrapped: Vec<Vec<u8>> = ids.iter().map(wrap).collect();
    let insert = "insert into vault.subject_key (subject_id, wrapped, kek_id)
                  select id, wrapped, 'first' from unnest($1::uuid[], $2::bytea[]) k (id, wrapped)";
    sqlx::query(insert).bind(ids).bind(wrapped).execute(pool).await.unwrap();
    sqlx::query("vacuum analyze vault.subject_key").execute(pool).await.unwrap();
}

/// Changes the rows that name one key; returns the rows per second.
async fn update(pool: &PgPool, from: &str, to: &str) -> f64 {
    let update = "with batch as (
                      select subject_id from vault.subject_key where wrapped_by = $1 and subject_id > $3
                      order by subject_id limit $4),
                  changed as (
                      update vault.subject_key k set kek_id = $2 from batch where k.subject_id = batch.subject_id
                      returning k.subject_id)
                  select count(*), (select subject_id from batch order by subject_id desc limit 1) from changed";
    let (began, mut rows, mut last) = (Instant::now(), 0, Uuid::nil());
    loop {
        let batch = sqlx::query_as(update).bind(from).bind(to).bind(last).bind(BATCH).fetch_one(pool).await;
        let (count, next): (i64, Option<Uuid>) = batch.unwrap();
        rows += count;
        match next {
            Some(next) => last = next,
            None => return rows as f64 / began.elapsed().as_secs_f64(),
        }
    }
}
