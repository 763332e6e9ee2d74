//! Restores that are killed at any moment: the database is the old one or the new one, whole, and the next run completes it.

use std::time::Duration;

use fulexo_tests::{Dice, Node, caught_up};
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::Restoring;

/// The number of kills.
const KILLS: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_any_moment_leaves_the_old_database_or_the_new_one() {
    let node = Node::start().await;
    let (admin, gone) = (node.admin().await, node.customer().await);
    caught_up(&node, &admin).await;
    let restoring = Restoring::of(&node.database);
    restoring.ground.create();
    let backed_up = restoring.log().await;
    let erased = admin.post(&format!("/v1/accounts/{}/erasure", gone.account), json!({"reason": "a letter"})).await;
    assert_eq!(erased.status, 200, "{erased:?}");
    node.stop().await;
    let before = restoring.log().await;

    let began = Instant::now();
    let arguments = ["--clean", "--lose-newer-events"];
    let mut dice = Dice(11);
    let mut whole: Option<Duration> = None;
    for kill in 0..KILLS {
        // Later and later: the last moments are those in which most happens.
        let longest = whole.unwrap_or(Duration::from_secs(6));
        let moment = longest * u32::try_from(kill + 1).unwrap() / u32::try_from(KILLS).unwrap();
        let moment = moment.mul_f64(0.7 + dice.index(60) as f64 / 100.0);
        let started = Instant::now();
        let mut program = restoring.start(&arguments);
        let ended = loop {
            if started.elapsed() >= moment {
                break false;
            }
            if !std::path::Path::new(&format!("/proc/{}/exe", program.pid())).exists() {
                break true;
            }
            sleep(Duration::from_millis(5)).await;
        };
        block_in_place(|| program.kill());
        if ended {
            whole = Some(started.elapsed());
        }
        // pg_restore may go on for a moment without its parent.
        let log = restoring.log().await;
        if log.0 == before.0 {
            assert_eq!(log, before, "the old one, whole");
        } else {
            assert!(log.1 > backed_up.1, "the new one, in which the person is erased again");
            break;
        }
    }
    let (code, report) = restoring.restore(&arguments);
    assert_eq!((code == 0 || code == 1, &report["facts"]["restored"]), (true, &json!(true)), "{report:#}");
    assert!(restoring.others().await.iter().all(|name| name.contains("_until_")), "{:?}", restoring.others().await);
    let node = restoring.node().await;
    let admin = node.admin().await;
    let path = format!("/v1/erasures/{}", gone.account);
    assert_eq!(admin.get(&path).await.status, 200, "after {:?}", began.elapsed());
    node.stop().await;
}
