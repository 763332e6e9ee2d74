//! Reports that are kept: signed, compared, refused if they were altered; and the log since the last of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fulexo_ops::clock::now;
use serde_json::{Value, json};

use super::{Audited, Instance, set};

/// The arguments that keep reports in a directory, signed.
fn keeping(instance: &Instance) -> [String; 4] {
    let path = |name: &str| instance.path(name).display().to_string();
    ["--out".to_owned(), path("reports"), "--signing-key".to_owned(), path("report.key")]
}

fn audit(instance: &Instance, arguments: &[String]) -> Audited {
    instance.audit(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_audit_says_what_is_new_what_was_mended_and_what_is_left() {
    let instance = Instance::start().await;
    let keeping = keeping(&instance);
    instance.plant("alter role fulexo createdb").await;
    let first = audit(&instance, &keeping);
    assert_eq!((first.status, &first.report["facts"]["comparison"]), (Some(1), &Value::Null));
    let kept = instance.path("reports/security-audit-000001.json");
    assert_eq!(first.report["facts"]["kept"], kept.display().to_string());
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(instance.path("reports")).unwrap().permissions().mode() & 0o777, 0o700);

    instance.plant("alter role fulexo nocreatedb; alter role fulexo createrole").await;
    let text = instance.run(&keeping.each_ref().map(String::as_str));
    for line in [
        "compared with report 1: 1 new, 1 mended, 2 left",
        "  new       fulexo CREATEROLE: a role of the service has an attribute that it does not need (database_roles.attribute)",
        "  mended    fulexo CREATEDB: a role of the service has an attribute that it does not need (database_roles.attribute)",
    ] {
        assert!(text.said.contains(line), "{}", text.said);
    }
    let third = audit(&instance, &keeping);
    let comparison = &third.report["facts"]["comparison"];
    assert_eq!((&comparison["report"], &comparison["new"], &comparison["mended"]), (&json!(2), &json!([]), &json!([])));
    assert_eq!(comparison["left"].as_array().unwrap().len(), 3);
    assert_eq!(third.report["facts"]["log"]["since"], third.report["facts"]["log"]["size"]);
    // What is signed with another key, or the log's, or not at all, is not what this auditor wrote.
    let unsigned = audit(&instance, &keeping[..2]);
    assert!(unsigned.report["facts"]["comparison"].is_object(), "without a key everything is believed");
    let refused = audit(&instance, &keeping).beyond_sound();
    let findings = set(["database_roles.attribute fulexo CREATEROLE", "reports.untrusted security-audit-000004.json"]);
    assert_eq!(refused, findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_report_is_not_compared_with_and_one_that_cannot_be_kept_is_told() {
    let instance = Instance::start().await;
    let (keeping, accept) = (keeping(&instance), instance.accept());
    let clean = [&keeping[..], &["--accept".to_owned(), accept.clone()]].concat();
    assert_eq!(audit(&instance, &clean).status, Some(0));
    let kept = instance.path("reports/security-audit-000001.json");
    let sound = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, sound.replace("data_checksums", "data_chequesums")).unwrap();
    let altered = audit(&instance, &clean);
    assert_eq!(altered.findings(), set(["reports.untrusted security-audit-000001.json"]));
    assert_eq!((altered.status, &altered.report["facts"]["comparison"]), (Some(1), &Value::Null));
    assert_eq!(audit(&instance, &clean).status, Some(0), "the next one compares with the report of this one");

    // An old report in the place of the newest one, and one that is gone.
    fs::copy(instance.path("reports/security-audit-000002.json"), instance.path("reports/security-audit-000003.json"))
        .unwrap();
    assert_eq!(audit(&instance, &clean).findings(), set(["reports.untrusted security-audit-000003.json"]));
    fs::remove_file(instance.path("reports/security-audit-000003.json")).unwrap();
    assert_eq!(audit(&instance, &clean).findings(), set(["reports.gap security-audit-000004.json"]));

    let unkept = instance.run(&["--accept", &accept, "--out", "/proc/nowhere"]);
    assert_eq!(unkept.status.code(), Some(3), "{}", unkept.errors);
    assert!(unkept.errors.contains("/proc/nowhere"), "{}", unkept.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_another_instance_or_of_the_future_is_found_and_none_is_compared_with_nothing() {
    let instance = Instance::start().await;
    let directory = instance.path("reports");
    let arguments = ["--out", directory.to_str().unwrap()];
    let file = |number: u32| directory.join(format!("security-audit-{number:06}.json"));
    let kept = |number: u32| -> Value { serde_json::from_str(&fs::read_to_string(file(number)).unwrap()).unwrap() };
    assert_eq!(instance.audit(&arguments).report["facts"]["comparison"], Value::Null, "the first");
    let mut report = kept(1);
    // Without a key everybody can write this.
    report["report"]["ended_at"] = json!(now() + chrono::TimeDelta::days(1));
    fs::write(file(1), report.to_string()).unwrap();
    let future = instance.audit(&arguments);
    assert_eq!(future.beyond_sound(), set(["reports.future security-audit-000001.json"]));
    assert_eq!(future.report["facts"]["comparison"]["report"], 1, "it is compared with all the same");
    let mut report = kept(2);
    report["report"]["target"] = json!("fulexo on elsewhere:5432");
    fs::write(file(2), report.to_string()).unwrap();
    let other = instance.audit(&arguments);
    assert_eq!(other.beyond_sound(), set(["reports.untrusted security-audit-000002.json"]));
    assert_eq!(other.report["facts"]["comparison"], Value::Null);
    fs::remove_dir_all(&directory).unwrap();
    let gone = instance.audit(&arguments);
    assert_eq!((gone.beyond_sound(), &gone.report["facts"]["comparison"]), (set([]), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_is_over_or_of_no_use_is_found() {
    let instance = Instance::start().await;
    let day = |days: i64| (now() + chrono::TimeDelta::days(days)).format("%F").to_string();
    let entry = |subject: &str, until: &str| {
        let rule = "database_settings.no_checksums";
        json!({"rule": rule, "subject": subject, "reason": "the servers of tests", "until": until})
    };
    let entries = json!([entry("data_checksums", &day(-2)), entry("elsewhere", &day(2))]);
    let path = instance.path("old.json").display().to_string();
    fs::write(&path, entries.to_string()).unwrap();
    let found = instance.audit(&["--accept", &path]).beyond_sound();
    let findings = set([
        "acceptance.expired database_settings.no_checksums data_checksums",
        "acceptance.unused database_settings.no_checksums elsewhere",
    ]);
    assert_eq!(found, findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_event_is_found_although_everything_after_it_was_made_to_fit() {
    let instance = Instance::start().await;
    let keeping = keeping(&instance);
    assert!(audit(&instance, &keeping).report["facts"]["log"]["checkpoint"].is_string());
    instance.node().register(&["customer"]).await;
    instance.settled().await;
    let theft = |action: &str| {
        format!(
            "alter table log.event_0 disable trigger append_only; {action};
             alter table log.event_0 enable always trigger append_only"
        )
    };
    instance.plant("create table public.stolen as select * from log.event where position = 2").await;
    let found = instance
        .found(
            &theft("delete from log.event_0 where position = 2"),
            &theft("insert into log.event_0 select * from public.stolen"),
        )
        .await;
    assert_eq!(found.iter().filter(|name| !name.contains("public.stolen")).count(), 1, "{found:?}");
    assert!(found.contains("log.fault event 2 missing"), "{found:?}");

    let swapped = theft("update log.event_0 set category = 'session' where position = 2");
    let found = instance.found(&swapped, &theft("select 1")).await;
    assert!(found.contains("log.fault event 2 row"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_another_key_signs_now_is_not_the_one_that_the_last_audit_saw() {
    let mut instance = Instance::start().await;
    let keeping = keeping(&instance);
    let arguments = [&["--json".to_owned()][..], &keeping].concat();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let first = Audited::of(&Instance::run_with(&instance.env, &arguments));
    assert!(first.findings().contains("log.own_key checkpoint"), "{:?}", first.findings());
    // A node would sign the log again within a second.
    instance.stop().await;
    // Whoever owns the database writes another history, and signs it with a key that they put there.
    instance.plant("update tree.checkpoint set size = 0, note = null, vkey = null, published_at = null").await;
    let unsigned = Audited::of(&Instance::run_with(&instance.env, &arguments)).findings();
    assert!(unsigned.is_superset(&set(["log.unsigned checkpoint", "log.old_checkpoint checkpoint"])), "{unsigned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_signer_and_witnesses_refuse_is_found_while_the_service_is_down() {
    let mut instance = Instance::start().await;
    instance.stop().await;
    assert_eq!(instance.audit(&["--replay"]).beyond_sound(), set([]));
    for (weakness, mended, finding) in [
        (
            "update tree.checkpoint set refused_because = 'the log has 3 events, but the signer has signed a tree of 4'",
            "update tree.checkpoint set refused_because = null",
            "log.refused checkpoint",
        ),
        (
            "insert into tree.witness values ('w', 1, now(), 'other events', true)",
            "delete from tree.witness",
            "log.contradicted witness w",
        ),
        (
            "update tree.checkpoint set size = size - 1;
             update read.audit set recorded_at = recorded_at - interval '11 minutes'
             where position = (select size from tree.checkpoint)",
            "update read.audit set recorded_at = recorded_at + interval '11 minutes'
             where position = (select size from tree.checkpoint);
             update tree.checkpoint set size = size + 1",
            "log.unsigned_tail checkpoint",
        ),
    ] {
        assert_eq!(instance.found(weakness, mended).await, set([finding]), "{weakness}");
    }
    // A read model that somebody changed is not what the log leads to.
    instance.plant("update read.account set suspended = true where account_id = (select min(account_id::text)::uuid from read.account)").await;
    assert_eq!(instance.audit(&["--replay"]).beyond_sound(), set(["read_models.differs table account"]));
    assert_eq!(instance.audit(&[]).beyond_sound(), set([]), "the replay is asked for");
}
