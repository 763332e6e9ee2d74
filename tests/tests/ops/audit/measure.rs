use super::Instance;
use std::time::Instant;
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure() {
    let instance = Instance::start().await;
    let began = Instant::now();
    instance.plant("
     insert into read.account select gen_random_uuid(), 1, now() - interval '200 days', 1, now(), now() - interval '1 day', null, null, 0, false, false, false, true, null, false, '{customer}' from generate_series(1, 1000000);
     insert into access.account select account_id, 1, now(), false, 0, null, null, false, 0, null, true, null from read.account on conflict do nothing;
     insert into access.role_grant select account_id, 'customer', 1 from read.account on conflict do nothing;
     with s as (select account_id from read.account limit 5000) insert into access.role_grant select account_id, 'auditor', 1 from s on conflict do nothing;
     with s as (select account_id from access.role_grant where role = 'auditor') insert into access.role_grant select account_id, 'admin', 1 from s on conflict do nothing;
     insert into read.role_grant select account_id, role, 1, now() - interval '100 days', null, 'operator' from access.role_grant where role <> 'customer' on conflict do nothing;
     insert into read.audit select n + 1000, 'account.x', 'account', (select account_id from access.role_grant where role='admin' limit 1), (select account_id from access.role_grant where role='admin' limit 1), gen_random_uuid(), now(), gen_random_uuid() from generate_series(1, 1000000) n;
     analyze").await;
    println!("planted in {:?}", began.elapsed());
    for _ in 0..3 {
        let began = Instant::now();
        let audited = instance.audit(&[]);
        println!("audit in {:?}, {} findings", began.elapsed(), audited.findings().len());
    }
    for check in ["accounts", "log", "database_grants", "append_only"] {
        let others: Vec<&str> = fulexo_ops::audit::CHECKS
            .iter()
            .map(|it| it.id)
            .filter(|id| *id != check)
            .flat_map(|id| ["--without", id])
            .collect();
        let began = Instant::now();
        let audited = instance.audit(&others);
        println!("{check} in {:?}, {} findings", began.elapsed(), audited.findings().len());
    }
    let q: Vec<String> = sqlx::query_scalar("explain (analyze, buffers) select g.account_id, g.role, coalesce(a.suspended, false), r.granted_at, coalesce(p.last_login_at, p.registered_at)
           from access.role_grant g
           left join access.account a on a.account_id = g.account_id
           left join read.account p on p.account_id = g.account_id
           left join read.role_grant r on r.account_id = g.account_id and r.role = g.role
           where g.role <> 'customer' and not coalesce(p.erased, false)
           order by g.account_id, g.role limit 10001").fetch_all(&instance.superuser).await.unwrap();
    println!("{}", q.join("\n"));
}
