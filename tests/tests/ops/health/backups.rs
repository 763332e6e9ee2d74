//! Backups: none, none verified, old, and a directory that is not there.

use std::fs;

use super::{Ground, set};

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_backup_that_was_verified_must_be_recent() {
    let ground = Ground::start().await;
    let clear = || {
        fs::remove_dir_all(ground.file("backups")).unwrap();
        fs::create_dir(ground.file("backups")).unwrap();
    };
    clear();
    let none = ground.check(&[]);
    assert_eq!((none.status, none.findings()), (1, set(["backup.none backups"])), "{:#}", none.report);
    ground.back_up(1, false);
    assert_eq!(ground.check(&[]).findings(), set(["backup.unverified backups"]));
    ground.back_up(60, true);
    let found = ground.check(&[]).findings();
    assert!(found.len() == 1 && found.first().unwrap().starts_with("backup.old "), "{found:?}");
    assert_eq!(ground.check(&["--max-backup-age", "72"]).findings(), set([]));
    clear();
    ground.back_up(-48, true);
    let found = ground.check(&[]).findings();
    assert!(found.len() == 1 && found.first().unwrap().starts_with("backup.future "), "{found:?}");

    let elsewhere = ground.check_with(&ground.with("FULEXO_BACKUP_TO", "/nowhere"), &[]);
    assert_eq!((elsewhere.status, elsewhere.result("backup")), (3, "not_checked"), "{:#}", elsewhere.report);
}
