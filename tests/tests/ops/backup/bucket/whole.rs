//! Backups that come to their end.

use std::fs;

use fulexo_tests::{Database, Program};
use serde_json::{Value, json};

use super::store::{KEY_ID, SECRET, Store};
use super::{STAGES, ground_at, long_database};
use crate::backup::{assert_stops, rungs};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_pieces_is_restored_from_a_bucket() {
    let (database, store) = (long_database().await, Store::start().await);
    let ground = ground_at(&database, &store);
    let path = ground.create();
    assert!(path.starts_with("s3://backups/of/fulexo"), "{}", path.display());
    let seen = store.seen();
    for (method, part) in STAGES {
        assert!(seen.iter().any(|it| it.starts_with(method) && it.contains(part)), "{method} {part}: {seen:#?}");
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let files = ["database.age", "keys.age", "manifest.json", "manifest.note"];
    assert_eq!(store.objects(), files.map(|file| format!("{name}/{file}")), "no lock, no remains");
    assert_eq!((store.uploads(), store.dir().join("lock").exists()), (Vec::new(), false));
    for clear in ["PGDMP", "AGE-SECRET-KEY-"] {
        let bytes = fs::read(store.dir().join(name).join("database.age")).unwrap();
        assert!(!bytes.windows(clear.len()).any(|window| window == clear.as_bytes()), "{clear} is in clear");
    }

    for place in ["latest", path.to_str().unwrap()] {
        let (code, report) = ground.verify(place, &[]);
        assert_eq!(code, 3, "the log is not signed: {report:#}");
        assert_eq!(rungs(&report)[3], ("restore".to_owned(), "passed".to_owned()), "{report:#}");
        assert_eq!(rungs(&report)[4], ("log".to_owned(), "not_checked".to_owned()), "{report:#}");
    }
    let listed: Value = serde_json::from_str(&ground.run(&["list", "--json"]).said).unwrap();
    assert_eq!((&listed["backup"], &listed["has_keys"]), (&json!(name), &json!(true)), "{listed}");
    assert_eq!(listed["verified"]["has_findings"], false, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_verified_backup_stays_in_a_bucket_and_what_is_not_known_removes_nothing() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    let good = ground.create();
    let name = good.file_name().unwrap().to_str().unwrap().to_owned();
    let (code, report) = ground.verify(&name, &[]);
    assert_eq!(code, 3, "the log is not signed: {report:#}");
    // Names tell the age: these are older and newer.
    for year in ["2020", "2021", "2999"] {
        let copy = store.dir().join(format!("{year}{}", &name[4..]));
        fs::create_dir(&copy).unwrap();
        for file in ["manifest.json", "manifest.note", "database.age", "keys.age"] {
            fs::copy(store.dir().join(&name).join(file), copy.join(file)).unwrap();
        }
    }
    let foreign = store.dir().join("2020").join("mine");
    fs::create_dir(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "mine").unwrap();

    // The record of the verification cannot be read: it may be the one that decides.
    store.plan("GET", "verified.json", 100, super::store::Fault::Refuse(503, "SlowDown"));
    let refused = ground.run(&["prune", "--keep", "1"]);
    assert_eq!(refused.status.code(), Some(3), "{}", refused.errors);
    assert_eq!(store.objects().iter().filter(|key| key.ends_with("manifest.json")).count(), 4);
    store.mend();

    let pruned = ground.run(&["prune", "--keep", "1", "--json"]);
    assert_eq!(pruned.status.code(), Some(0), "{}", pruned.errors);
    let left: Vec<_> = store.objects().into_iter().filter(|key| key.ends_with("manifest.json")).collect();
    assert_eq!(left, [format!("{name}/manifest.json"), format!("2999{}/manifest.json", &name[4..])]);
    assert!(foreign.exists());
    assert_eq!(store.objects().len(), 5 + 4 + 1, "the good one, the newest, a foreign file: {:?}", store.objects());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_addresses_are_refused_and_not_repeated() {
    let (database, store) = (Database::create().await, Store::start().await);
    let ground = ground_at(&database, &store);
    let run = |changes: &[(&str, Option<&str>)]| {
        let mut env = ground.env.clone();
        for (name, value) in changes {
            match value {
                Some(value) => env.insert((*name).to_owned(), (*value).to_owned()),
                None => env.remove(*name),
            };
        }
        let ended = Program::run(&["backup", "create"], &env);
        for secret in [SECRET, "another-secret", "a-token"] {
            assert!(!ended.errors.contains(secret) && !ended.said.contains(secret), "{}", ended.errors);
        }
        (ended.status.code(), ended.errors)
    };
    let (secret, file) = ("AWS_SECRET_ACCESS_KEY", ground.file("secret"));
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    for (changes, code, text) in [
        (vec![(secret, Some("another-secret"))], 3, "403 SignatureDoesNotMatch"),
        (vec![("AWS_ACCESS_KEY_ID", Some("AKIAOTHER"))], 3, "403"),
        (vec![(secret, None)], 2, "AWS_SECRET_ACCESS_KEY is missing"),
        (vec![("AWS_ACCESS_KEY_ID", None)], 2, "AWS_ACCESS_KEY_ID is missing"),
        (vec![("AWS_SECRET_ACCESS_KEY_FILE", Some(&file))], 2, "both set"),
        (vec![("AWS_ENDPOINT_URL_S3", Some("http://192.0.2.1"))], 2, "plain HTTP"),
        (vec![("AWS_ENDPOINT_URL", Some("https://ann:another-secret@127.0.0.1"))], 2, "no user"),
        (vec![("AWS_ENDPOINT_URL", Some("http://127.0.0.1:1"))], 3, "To mend it: check the store"),
        (vec![("FULEXO_BACKUP_PIECE_MIB", Some("4"))], 2, "from 5 to 1024"),
        (vec![(secret, None), ("AWS_SECRET_ACCESS_KEY_FILE", Some(&file))], 0, ""),
    ] {
        let (ended, errors) = run(&changes);
        assert_eq!(ended, Some(code), "{changes:?}: {errors}");
        assert!(errors.contains(text), "{changes:?}: {errors}");
    }
    assert!(store.seen().iter().all(|request| !request.contains(KEY_ID) && !request.contains("Signature")));
    let (code, report) = ground.verify_with("latest", &[], &[]);
    assert_eq!(code, 3, "{report:#}");
    assert_stops(&report, "format", "not_checked");
}
