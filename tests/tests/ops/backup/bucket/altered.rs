//! Objects that were altered in the store.

use std::fs;
use std::path::Path;

use fulexo_tests::Database;

use super::ground_at;
use super::store::{Fault, Store};
use crate::backup::assert_stops;

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_object_is_found() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    let path = ground.create();
    let dir = store.dir().join(path.file_name().unwrap());
    let change = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let before = fs::read(dir.join(file)).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(dir.join(file), bytes).unwrap();
        before
    };
    type Alteration<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Vec<u8>));
    let alterations: [Alteration<'_>; 6] = [
        ("database.age", "checksums", &|it| *it.last_mut().unwrap() ^= 1),
        ("database.age", "checksums", &|it| it.truncate(it.len() - 7)),
        ("keys.age", "checksums", &|it| it.push(0)),
        ("keys.age", "checksums", &|it| it.clear()),
        ("manifest.json", "signature", &|it| it[40] ^= 1),
        ("manifest.note", "signature", &|it| it.clear()),
    ];
    for (file, rung, alter) in alterations {
        let before = change(file, alter);
        let (code, report) = ground.verify("latest", &[]);
        assert_eq!(code, 1, "{file}: {report:#}");
        assert_stops(&report, rung, "found");
        fs::write(dir.join(file), before).unwrap();
    }
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    remove(&dir.join("database.age"));
    let (code, report) = ground.verify("latest", &[]);
    assert_eq!(code, 1, "{report:#}");
    assert_stops(&report, "checksums", "found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_no_finding() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    ground.create();
    for (method, part, rung) in
        [("GET", "manifest.note", "signature"), ("HEAD", "keys.age", "signature"), ("GET", "database.age", "checksums")]
    {
        store.plan(method, part, 100, Fault::Refuse(503, "SlowDown"));
        let (code, report) = ground.verify("latest", &[]);
        assert_eq!(code, 3, "{part}: {report:#}");
        assert_stops(&report, rung, "not_checked");
        store.mend();
    }
}
