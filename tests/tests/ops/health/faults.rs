//! Faults in the database: a read model that stopped, lags, keys, a lockdown, incidents.

use std::collections::BTreeMap;
use std::fs;

use fulexo_tests::{Program, cut_off, eventually};

use super::{Checked, Ground, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_that_stopped_is_named_with_its_event_and_so_is_the_node_without_a_lease() {
    let ground = Ground::start().await;
    cut_off(ground.node()).await;
    eventually("every read model has stopped", async || {
        let going = "select count(*) from projection.checkpoint where stopped_because is null";
        sqlx::query_scalar::<_, i64>(going).fetch_one(&ground.pool).await.unwrap() == 0
    })
    .await;
    let ca = ground.file("ca.pem");
    // Once, with what it has: the lease does not come back.
    let checked = Checked::of(&Program::run(&ground.arguments(&ca, &["--json"]), &ground.env));
    let service = format!("service.no_lease https://127.0.0.1:{}", ground.node().port());
    let wanted = set([
        service.as_str(),
        "read_models.stopped accounts",
        "read_models.stopped audit",
        "read_models.stopped incidents",
        "read_models.stopped metrics",
        "read_models.stopped roles",
        "read_models.stopped sessions",
    ]);
    assert_eq!((checked.status, checked.findings()), (1, wanted.clone()), "{:#}", checked.report);
    // From elsewhere the service says so.
    let url = format!("https://localhost:{}", ground.node().port());
    let there = Program::run(&ground.arguments(&ca, &["--json", "--url", &url]), &BTreeMap::new());
    let there = Checked::of(&there).findings();
    assert!(there.contains("read_models.stopped accounts"), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lags_is_found_once_its_first_event_has_waited_and_not_before() {
    let mut ground = Ground::start().await;
    let down = format!("service.down https://127.0.0.1:{}", ground.node().port());
    ground.stop().await;
    let (own, none) = (down.as_str(), "nodes.none service");
    for (fault, mended, finding) in [
        (
            "update projection.checkpoint set position = position - 1 where name = 'roles'",
            "update projection.checkpoint set position = position + 1 where name = 'roles'",
            "read_models.lag roles",
        ),
        ("update tree.head set size = size - 1", "update tree.head set size = size + 1", "tree.lag tree"),
        (
            "update tree.checkpoint set size = size - 1",
            "update tree.checkpoint set size = size + 1",
            "checkpoint.late checkpoint",
        ),
        (
            "update log.relay set holder = gen_random_uuid(), position = (select position from log.head) - 1,
                                  held_until = now() + interval '1 hour'",
            "update log.relay set holder = null",
            "relay.lag relay",
        ),
        (
            "update log.relay set holder = gen_random_uuid(), position = 0, stopped_because = 'NATS'",
            "update log.relay set holder = null, stopped_because = null",
            "relay.stopped relay",
        ),
        (
            "update tree.head set stopped_because = 'the event at position 3 is missing'",
            "update tree.head set stopped_because = null",
            "tree.stopped tree",
        ),
        (
            "update tree.checkpoint set refused_because = 'the log has 3 events, but the signer has signed a tree of 4'",
            "update tree.checkpoint set refused_because = null",
            "checkpoint.refused checkpoint",
        ),
    ] {
        // The newest event has waited for as long as this says.
        let age = |interval: &str| {
            format!(
                "update read.audit set recorded_at = now() - interval '{interval}'
                     where position = (select position - 1 from log.head)"
            )
        };
        ground.plant(&age("-1 hour")).await;
        if finding.ends_with("lag roles") || finding.ends_with("late checkpoint") {
            assert_eq!(ground.found(fault, mended).await, set([own, none]), "{fault}: it is young");
        }
        ground.plant(&age("5 minutes")).await;
        assert_eq!(ground.found(fault, mended).await, set([own, none, finding]), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_due_and_a_rotation_that_was_not_finished_are_found() {
    let ground = Ground::start().await;
    let due = "update vault.key_epoch set first_used_at = first_used_at - interval '40 days' where kind = 'encryption'";
    let mended =
        "update vault.key_epoch set first_used_at = first_used_at + interval '40 days' where kind = 'encryption'";
    assert_eq!(ground.found(due, mended).await, set(["keys.due encryption key default"]));
    let leaving = |days: u32| {
        format!(
            "insert into vault.key_epoch (kind, key_id, first_used_at, replaced_at)
             values ('signing', 'old', now() - interval '20 days', now() - interval '{days} days')"
        )
    };
    let gone = "delete from vault.key_epoch where key_id = 'old'";
    assert_eq!(ground.found(&leaving(1), gone).await, set([]));
    assert_eq!(ground.found(&leaving(3), gone).await, set(["keys.leaving signing key old"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lockdown_in_force_is_a_finding_and_an_open_incident_is_said() {
    let ground = Ground::start().await;
    let text = ground.file("text");
    fs::write(&text, "a laptop of Ann Smith was stolen").unwrap();
    let opened = Program::run(&["incident", "open", "critical", "--text", &text], &ground.database.env());
    assert_eq!(opened.status.code(), Some(0), "{}", opened.errors);
    ground.settled().await;
    let checked = ground.check(&[]);
    assert_eq!((checked.status, checked.findings()), (0, set([])), "{:#}", checked.report);
    assert_eq!(checked.facts("incidents")["summary"], "1 incident open: 1 critical");
    assert!(!checked.report.to_string().contains("Ann"), "the summary is sealed");

    let locked = Program::run(&["lockdown", "logins", "--reason", "an attack"], &ground.database.env());
    assert_eq!(locked.status.code(), Some(0), "{}", locked.errors);
    ground.settled().await;
    let checked = ground.check(&[]);
    assert_eq!((checked.status, checked.findings()), (1, set(["lockdown.in_force lockdown"])), "{:#}", checked.report);
    assert_eq!(checked.facts("lockdown")["scope"], "logins");
}
