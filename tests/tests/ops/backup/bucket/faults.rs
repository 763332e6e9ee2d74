//! Faults on the way, at every stage: for a moment, or for good; and what a hostile store can answer.

use fulexo_tests::{Cut, Database, Program};
use tokio::task::block_in_place;

use super::store::{Fault, Store};
use super::{STAGES, ground_at, long_database};
use crate::backup::rungs;

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_once_at_any_stage_is_done_again() {
    let (database, store) = (long_database().await, Store::start().await);
    let ground = ground_at(&database, &store);
    for fault in [Fault::Refuse(500, "InternalError"), Fault::Lose, Fault::LoseAnswer, Fault::Alter, Fault::Delay] {
        for (method, part) in STAGES {
            store.plan(method, part, 1, fault.clone());
        }
        let ended = ground.run(&["create"]);
        assert_eq!(ended.status.code(), Some(0), "{fault:?}: {}", ended.errors);
        store.mend();
        let (code, report) = ground.verify_with("latest", &[], &[]);
        assert_eq!((code, rungs(&report)[1].1.as_str()), (3, "passed"), "{fault:?}: {report:#}");
        // An upload that was begun without an answer has nobody who knows it; the next list would tell.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    for part in ["manifest.json", "manifest.note", "database.age", "keys.age"] {
        for fault in [Fault::Refuse(503, "SlowDown"), Fault::Lose, Fault::LoseAnswer] {
            store.plan("GET", part, 1, fault);
        }
    }
    let (code, report) = ground.verify("latest", &[]);
    assert_eq!((code, rungs(&report)[3].1.as_str()), (3, "passed"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_at_any_stage_has_no_backup_and_says_so() {
    let (database, store) = (long_database().await, Store::start().await);
    let ground = ground_at(&database, &store);
    for (number, (method, part)) in STAGES.into_iter().enumerate().filter(|(_, (method, _))| *method != "GET") {
        let (status, code) = if number % 2 == 0 { (507, "InsufficientStorage") } else { (403, "QuotaExceeded") };
        store.plan(method, part, 100, Fault::Refuse(status, code));
        let ended = ground.run(&["create"]);
        assert_eq!(ended.status.code(), Some(3), "{method} {part}: {}", ended.errors);
        assert!(ended.errors.contains("free space in the target, or raise its quota"), "{part}: {}", ended.errors);
        assert_eq!((store.objects(), store.uploads()), (Vec::new(), Vec::new()), "{method} {part}");
        store.mend();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_at_any_moment_costs_no_backup() {
    let (database, store) = (Database::create().await, Store::start().await);
    let (cut, mut ground) = (Cut::before(store.port).await, ground_at(&database, &store));
    ground.env.insert("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", cut.port));
    for pieces in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        cut.lose_after(pieces);
        let ended = ground.run(&["create"]);
        assert_eq!(ended.status.code(), Some(0), "after {pieces}: {}", ended.errors);
        let (code, report) = ground.verify_with("latest", &[], &[]);
        assert_eq!((code, rungs(&report)[1].1.as_str()), (3, "passed"), "after {pieces}: {report:#}");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_killed_at_any_stage_is_none_and_the_next_one_clears_it_away() {
    let (database, store) = (long_database().await, Store::start().await);
    let ground = ground_at(&database, &store);
    for (method, part) in STAGES {
        store.plan(method, part, 1, Fault::Hang);
        let before = store.seen().len();
        let mut program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
        fulexo_tests::eventually("the stage is reached", async || {
            store.seen().iter().skip(before).any(|it| it.starts_with(method) && it.contains(part))
        })
        .await;
        block_in_place(|| program.kill());
        store.mend();
        let listed = ground.run(&["list", "--json"]);
        assert_eq!((listed.status.code(), listed.said.as_str()), (Some(0), ""), "{method} {part}");
        if store.dir().join("lock").exists() {
            let refused = ground.run(&["create"]);
            assert_eq!(refused.status.code(), Some(3), "{method} {part}: {}", refused.errors);
            assert!(refused.errors.contains("ends within 5 minutes"), "{}", refused.errors);
            store.age_lock();
        }
        // This store does not list uploads. One that does:
        let uploads = store.uploads().into_iter().map(|id| {
            format!("<Upload><Key>of/fulexo/20200101T000000Z-1/database.age</Key><UploadId>{id}</UploadId></Upload>")
        });
        let list = uploads.collect::<String>();
        store.plan(
            "GET",
            "uploads=",
            1,
            Fault::Answer(format!("<ListMultipartUploadsResult>{list}</ListMultipartUploadsResult>")),
        );
        let ended = ground.run(&["prune", "--keep", "1"]);
        assert_eq!(ended.status.code(), Some(0), "{method} {part}: {}", ended.errors);
        assert_eq!((store.objects(), store.uploads()), (Vec::new(), Vec::new()), "{method} {part}");
        store.mend();
    }
    // Without a list the id of an upload is in an object.
    store.plan("PUT", "partNumber=2", 1, Fault::Hang);
    let before = store.seen().len();
    let mut program = block_in_place(|| Program::start(&["backup", "create"], &ground.env));
    fulexo_tests::eventually("the stage is reached", async || {
        store.seen().iter().skip(before).any(|it| it.contains("partNumber=2"))
    })
    .await;
    block_in_place(|| program.kill());
    store.mend();
    store.age_lock();
    assert_eq!(store.uploads().len(), 1);
    ground.create();
    assert_eq!(store.uploads(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_store_costs_neither_memory_nor_time_without_bounds() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    ground.create();
    let truncated = |token: &str| {
        format!("<R><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken></R>")
    };
    for fault in [
        Fault::Endless,
        Fault::Answer(truncated("the same")),
        Fault::Answer("<R><IsTruncated>true</IsTruncated></R>".to_owned()),
        Fault::Refuse(403, "AccessDenied"),
    ] {
        store.plan("GET", "list-type=2", 100, fault.clone());
        let ended = ground.run(&["list"]);
        assert_eq!(ended.status.code(), Some(3), "{fault:?}: {}", ended.errors);
        assert!(ended.errors.len() < 1_000, "{}", ended.errors);
        store.mend();
    }
    for (part, fault) in [
        ("manifest.json", Fault::Endless),
        ("keys.age", Fault::Endless),
        ("keys.age", Fault::Answer("another length".to_owned())),
    ] {
        store.plan("GET", part, 100, fault);
        let (code, report) = ground.verify("latest", &[]);
        assert_eq!(code, 3, "{part}: {report:#}");
        store.mend();
    }
}
