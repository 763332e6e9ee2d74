//! An audit is in nobody's way: beside it logins go on, and it never holds a lock that they wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fulexo_tests::PASSWORD;
use serde_json::json;

use super::{Instance, SOUND, set};

/// The locks of the audit that another session could wait for, and the sessions that do.
const LOCKS: &str = "
    select l.mode || ' on ' || coalesce(l.relation::regclass::text, l.locktype)
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where a.application_name = 'fulexo security-audit'
      and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') and l.locktype in ('relation', 'tuple')
    union all
    select 'waits: ' || w.pid from pg_stat_activity w
    where exists (select from unnest(pg_blocking_pids(w.pid)) b (pid) join pg_stat_activity a on a.pid = b.pid
                  where a.application_name = 'fulexo security-audit')";

#[tokio::test(flavor = "multi_thread")]
async fn logins_beside_an_audit_wait_for_no_lock_of_it() {
    let instance = Instance::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let customer = instance.node().customer().await;
    let logins = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let body = json!({"email": customer.email, "password": PASSWORD});
                let answer = customer.post("/v1/auth/login", body).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                count += 1;
            }
            count
        }
    });
    let locks = tokio::spawn({
        let (stop, pool) = (Arc::clone(&stop), instance.superuser.clone());
        async move {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let held: Vec<String> = sqlx::query_scalar(LOCKS).fetch_all(&pool).await.unwrap();
                assert!(held.is_empty(), "{held:?}");
                looks += 1;
            }
            looks
        }
    });
    for _ in 0..3 {
        let audited = instance.audit(&["--replay"]);
        assert_eq!((audited.findings(), audited.status), (set(SOUND), Some(1)), "{:#}", audited.report);
    }
    stop.store(true, Ordering::Relaxed);
    let (logins, looks) = (logins.await.unwrap(), locks.await.unwrap());
    assert!(logins > 0 && looks > 0, "{logins} logins, {looks} looks");
}
