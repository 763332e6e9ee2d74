//! Backups in a bucket: whole or none, whatever happens on the way to the store.

mod altered;
mod faults;
mod lease;
mod store;
mod whole;

use fulexo_tests::{Database, superuser};

use self::store::Store;
use super::Ground;

/// The requests of a backup in several pieces, in their order: the method, and a part of the path.
const STAGES: [(&str, &str); 10] = [
    ("PUT", "/lock"),
    ("GET", "list-type=2"),
    ("POST", "database.age?uploads"),
    ("PUT", "database.age.upload"),
    ("PUT", "database.age?partNumber=1"),
    ("PUT", "database.age?partNumber=2"),
    ("POST", "database.age?uploadId"),
    ("PUT", "keys.age"),
    ("PUT", "manifest.note"),
    ("PUT", "manifest.json"),
];

/// A database whose backup is longer than one piece.
async fn long_database() -> Database {
    let database = Database::create().await;
    let pool = superuser(&database).await;
    for statement in [
        "create table public.ballast as select sha256(n::text::bytea) from generate_series(1, 250000) n",
        "grant select on public.ballast to public",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    database
}

/// The ground of a backup to a bucket, in the shortest pieces.
fn ground_at(database: &Database, store: &Store) -> Ground {
    let mut ground = Ground::new(database);
    ground.env.extend(store.env());
    ground.env.insert("FULEXO_BACKUP_PIECE_MIB".to_owned(), "5".to_owned());
    ground
}
