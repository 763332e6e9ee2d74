//! The cost of a list follows from what it returns: no plan of a list walks a table to find what a filter wants, even
//! once the server plans without looking at values; and if nothing but a walk can find it, a page walks a bounded
//! distance.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use fulexo_domain::values::{AccountId, AddressDigest};
use fulexo_projections::as_of::Moment;
use fulexo_projections::page::{Paging, SortOrder};
use fulexo_projections::read_models::{accounts, audit, counts, metrics, roles, sessions};
use fulexo_tests::{Database, history};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

/// Rows as lists find them in a log that has grown.
const FILL: [&str; 13] = [
    "insert into read.account (account_id, since, registered_at, profile_position, password_changed_at, recovery_codes,
                               suspended, password_expired, second_factor, email_verified, erased, roles, locked_until)
     select projection_test.id(n), n * 10, timestamptz '2026-01-01' + n * interval '1 minute', n, now(), 0, n % 1000 = 0,
            false, n % 1000 = 1, true, false, '{customer}', case when n % 100 = 0 then timestamptz '2026-02-01' end
     from generate_series(1, 20000) n",
    "insert into read.account_past (account_id, since, registered_at, profile_position, password_changed_at, recovery_codes,
                                    suspended, password_expired, second_factor, email_verified, erased, roles, until)
     select projection_test.id(n), n * 10 - k, timestamptz '2026-01-01' + n * interval '1 minute', n, now(), 0, false, false,
            false, true, false, '{customer}', n * 10 - k + 1
     from generate_series(1, 20000) n, generate_series(1, 4) k",
    "insert into read.role_grant (account_id, role, since, granted_at, granted_by_kind)
     select projection_test.id(n), 'customer', n * 10, now(), 'anonymous' from generate_series(1, 20000) n
     union all select projection_test.id(n * 1000), 'auditor', n * 10, now(), 'account' from generate_series(1, 20) n",
    "insert into read.role_grant_past (account_id, role, since, granted_at, granted_by_kind, until)
     select projection_test.id(n * 10), 'auditor', n * 10, now(), 'account', n * 10 + 5 from generate_series(1, 2000) n",
    "insert into read.session (session_id, account_id, since, started_at, started_position, last_seen_at,
                               last_seen_position, idle_expires_at, expires_at, ended_at, ended_by, methods)
     select projection_test.id(n), projection_test.id(n % 4000 + 1), n * 10, now(), n * 10, now(), n * 10, now() + interval '1 day',
            now() + interval '1 day', case when n % 3 = 0 then now() end, case when n % 3 = 0 then 'owner' end, '{pwd}'
     from generate_series(1, 40000) n",
    "insert into read.session_past (session_id, account_id, since, started_at, started_position, last_seen_at,
                                    last_seen_position, idle_expires_at, expires_at, methods, until)
     select projection_test.id(n), projection_test.id(n % 4000 + 1), n * 10 - k, now(), n * 10 - 5, now(), n * 10 - 5, now(), now(),
            '{pwd}', n * 10 - k + 1
     from generate_series(1, 40000) n, generate_series(1, 2) k",
    "insert into read.audit (position, event_type, category, subject_id, actor_id, correlation_id, recorded_at,
                             event_id)
     select n, case when n % 1000 = 0 then 'account.suspended' else 'session.refreshed' end,
            case when n % 1000 = 0 then 'account' else 'session' end, projection_test.id(n % 4000),
            case when n % 3 = 0 then null else projection_test.id(n % 4000) end, projection_test.id(n),
            timestamptz '2026-01-01' + n * interval '1 second', projection_test.id(n + 200000)
     from generate_series(0, 100000) n",
    "insert into read.account_count select n, n, n / 1000, n / 1000 from generate_series(1, 20000) n",
    "insert into read.holder_count select r, n, n from unnest('{auditor, customer}'::text[]) r, generate_series(1, 20000) n",
    "insert into read.session_count
     select 'minute', timestamptz '2026-01-01' + n * interval '1 minute', 5, 5 from generate_series(1, 40000) n",
    // One address has a tenth of all events.
    "insert into log.sealed (position, ordinal, subject_id, nonce, ciphertext, ip_digest, email_digest)
     select n, 0, projection_test.id(n % 4000), '\\x000000000000000000000000', '\\x00',
            decode(lpad(to_hex(case when n % 10 = 0 then 0 else n % 5000 end), 32, '0'), 'hex'),
            case when n % 100 = 1 then decode(lpad(to_hex(n % 4000), 32, '0'), 'hex') end
     from generate_series(0, 100000) n",
    "drop schema projection_test cascade",
    "vacuum analyze",
];

/// The digest of an address that many events have.
const COMMON: AddressDigest = AddressDigest([0; 16]);

async fn filled() -> (Database, PgConnection) {
    let database = Database::create().await;
    history::fill(&database, 20_000).await;
    let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
    sqlx::raw_sql(
        "create schema projection_test;
         create function projection_test.id(n bigint) returns uuid language sql immutable as
         $$select (lpad(to_hex(1767225600000 + n * 60000), 12, '0') || '7000' || '8' || lpad(to_hex(n), 15, '0'))::uuid$$",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    for statement in FILL {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    (database, connection)
}

/// Returns the plan that a statement has once the server plans it for any values.
async fn plan(connection: &mut PgConnection, statement: QueryBuilder<Postgres>) -> Value {
    let text = statement.sql().as_str().to_owned();
    let parameters = (1..).take_while(|n| text.contains(&format!("${n}"))).count();
    let nulls = vec!["null"; parameters].join(", ");
    let call = if parameters == 0 { "execute listed".to_owned() } else { format!("execute listed({nulls})") };
    for statement in ["set plan_cache_mode = force_generic_plan".to_owned(), format!("prepare listed as {text}")] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await.unwrap();
    }
    let explain = AssertSqlSafe(format!("explain (format json) {call}"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(&mut *connection).await.unwrap();
    sqlx::raw_sql("deallocate listed").execute(connection).await.unwrap();
    plan[0]["Plan"].clone()
}

/// Collects every node of a plan.
fn nodes<'a>(plan: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(plan);
    plan["Plans"].as_array().into_iter().flatten().for_each(|plan| nodes(plan, found));
}

/// `true` if the relation stays small: roles that administrators define are few; the next partition of the log is
/// empty.
fn is_small(relation: &str) -> bool {
    ["role", "role_past", "event_1"].contains(&relation)
}

/// Panics if a plan reads a table from end to end, on its own or for a join.
fn assert_no_walk(plan: &Value, about: &str) {
    let mut all = Vec::new();
    nodes(plan, &mut all);
    for node in all {
        let relation = node["Relation Name"].as_str().unwrap_or_default();
        assert!(node["Node Type"] != "Seq Scan" || is_small(relation), "{about} reads all of {relation}: {plan:#}");
        if ["Hash Join", "Merge Join"].map(Value::from).contains(&node["Node Type"]) {
            let mut hashed = Vec::new();
            nodes(&node["Plans"][1], &mut hashed);
            let all_small = hashed.iter().filter_map(|node| node["Relation Name"].as_str()).all(is_small);
            assert!(all_small, "{about} reads both sides of a join: {plan:#}");
        }
    }
}

/// Returns the filter on the rows that an index scan of this table finds.
fn filter_of(plan: &Value, relation: &str) -> String {
    let mut all = Vec::new();
    nodes(plan, &mut all);
    let scans = all.into_iter().filter(|node| node["Relation Name"] == relation);
    scans.filter_map(|node| node["Filter"].as_str()).collect::<Vec<_>>().join(" ")
}

fn pagings<K: Clone>(after: K) -> Vec<Paging<K>> {
    let page = |after, order| Paging { after, order, limit: 50 };
    vec![
        page(None, SortOrder::Ascending),
        page(None, SortOrder::Descending),
        page(Some(after.clone()), SortOrder::Ascending),
        page(Some(after), SortOrder::Descending),
    ]
}

fn now() -> DateTime<Utc> {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_and_no_filter_has_a_plan_that_walks() {
    let (_database, mut connection) = filled().await;
    let id = Uuid::from_u128(0x019b_7600_0000_7000_8000_0000_0000_0001);
    let moment = Moment { position: 50_000, time: now() };
    let mut plans = 0;

    for paging in pagings(50_000) {
        let none = audit::AuditFilter::default;
        let one = [
            none(),
            audit::AuditFilter { event_type: Some("account.suspended"), ..none() },
            audit::AuditFilter { category: Some("account"), ..none() },
            audit::AuditFilter { subject: Some(id), ..none() },
            audit::AuditFilter { actor: Some(id), ..none() },
            audit::AuditFilter { correlation: Some(id), ..none() },
            audit::AuditFilter { session: Some(id), ..none() },
            audit::AuditFilter { api_key: Some(id), ..none() },
            audit::AuditFilter { id: Some(id), ..none() },
            audit::AuditFilter { address: Some(COMMON), ..none() },
            audit::AuditFilter { address: Some(COMMON), from: Some(now()), to: Some(now()), ..none() },
            audit::AuditFilter { from: Some(now()), ..none() },
            audit::AuditFilter { to: Some(now()), ..none() },
            audit::AuditFilter { from: Some(now()), to: Some(now()), subject: Some(id), ..none() },
            audit::AuditFilter {
                until: Some(50_000),
                after: Some(10),
                event_type: Some("account.suspended"),
                ..none()
            },
        ];
        for filter in one {
            let about = format!("the trail by {filter:?} {paging:?}");
            let plan = plan(&mut connection, audit::statement(&filter, &paging)).await;
            assert_no_walk(&plan, &about);
            assert_eq!(filter_of(&plan, "audit"), "", "{about}: {plan:#}");
            plans += 1;
        }
    }
    for paging in pagings(id) {
        let none = accounts::AccountFilter::default;
        let filters = [
            none(),
            accounts::AccountFilter { account: Some(AccountId(id)), ..none() },
            accounts::AccountFilter { role: Some("auditor".into()), ..none() },
            accounts::AccountFilter { locked: Some(true), ..none() },
            accounts::AccountFilter { suspended: Some(true), ..none() },
            accounts::AccountFilter { second_factor: Some(true), ..none() },
            accounts::AccountFilter { second_factor: Some(false), ..none() },
            accounts::AccountFilter {
                role: Some("auditor".into()),
                locked: Some(false),
                suspended: Some(false),
                ..none()
            },
        ];
        for filter in filters {
            for moment in [None, Some(moment)] {
                let about = format!("accounts by {filter:?} {paging:?} {moment:?}");
                let plan = plan(&mut connection, accounts::statement(&filter, &paging, moment, now())).await;
                assert_no_walk(&plan, &about);
                plans += 1;
            }
        }
        for (account, live) in
            [(None, None), (None, Some(true)), (None, Some(false)), (Some(id), None), (Some(id), Some(true))]
        {
            let filter = sessions::SessionFilter { account: account.map(AccountId), live };
            for moment in [None, Some(moment)] {
                let about = format!("sessions by {filter:?} {paging:?} {moment:?}");
                let plan = plan(&mut connection, sessions::statement(&filter, &paging, moment, now())).await;
                assert_no_walk(&plan, &about);
                plans += 1;
            }
        }
    }
    for paging in pagings((id, "auditor".to_owned())) {
        for (account, role) in [(None, None), (Some(id), None), (None, Some("auditor")), (Some(id), Some("auditor"))] {
            let filter = roles::GrantFilter { account: account.map(AccountId), role: role.map(str::to_owned) };
            for position in [None, Some(50_000)] {
                let about = format!("grants by {filter:?} {paging:?} {position:?}");
                let plan = plan(&mut connection, roles::statement(&filter, &paging, position)).await;
                assert_no_walk(&plan, &about);
                plans += 1;
            }
        }
    }
    assert!(plans >= 150, "only {plans}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_gauge_walks_what_it_counts() {
    let (database, connection) = filled().await;
    connection.close().await.unwrap();
    let options = PgConnectOptions::from_str(&database.url()).unwrap();
    let options = options.options([("plan_cache_mode", "force_generic_plan")]);
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sqlx::raw_sql("begin").execute(&pool).await.unwrap();
    for moment in [Moment { position: 1_000_000, time: now() }, Moment { position: 50_000, time: now() }] {
        metrics::gauges(&pool, moment).await.unwrap();
        counts::holders(&pool, moment.position).await.unwrap();
    }
    let walked: Vec<(String, i64)> = sqlx::query_as(
        "select relname::text, seq_tup_read from pg_stat_xact_user_tables
         where schemaname in ('read', 'log') and seq_tup_read > 0",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(walked, [], "rows read from end to end");
    let read: i64 = sqlx::query_scalar("select sum(idx_tup_fetch)::bigint from pg_stat_xact_user_tables")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(read > 0, "the counters count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_finds_little_ends_after_so_many_rows_and_the_next_goes_on() {
    let (database, connection) = filled().await;
    connection.close().await.unwrap();
    let pool = database.pool().await;
    let moment = Moment { position: 1_000_000, time: now() };
    for order in [SortOrder::Ascending, SortOrder::Descending] {
        let (mut paging, mut found, mut pages) = (Paging { order, ..Paging::first(50) }, Vec::new(), 0);
        loop {
            let filter = accounts::AccountFilter { suspended: Some(true), ..accounts::AccountFilter::default() };
            let page = accounts::list_as_of(&pool, &filter, &paging, moment).await.unwrap();
            assert!(page.items.iter().all(|account| account.suspended));
            found.extend(page.items.into_iter().map(|account| account.account_id));
            pages += 1;
            paging.after = page.next;
            if paging.after.is_none() {
                break;
            }
        }
        assert_eq!((found.len(), pages), (20, 21), "20,000 accounts by 1,000, and none is left");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 20, "none is met twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_events_of_a_common_address_reads_little_more_than_the_page() {
    let (database, connection) = filled().await;
    connection.close().await.unwrap();
    let options = PgConnectOptions::from_str(&database.url()).unwrap();
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sqlx::raw_sql("begin").execute(&pool).await.unwrap();
    let read = async || -> i64 {
        let entries = "select sum(pg_stat_get_xact_tuples_returned(indexrelid))::bigint from pg_index
                       where indrelid in ('log.sealed'::regclass, 'read.audit'::regclass)";
        sqlx::query_scalar(entries).fetch_one(&pool).await.unwrap()
    };
    let by = audit::AuditFilter { address: Some(COMMON), ..audit::AuditFilter::default() };
    // One who has 25 events, none of them of this address.
    let subject = Uuid::from_u128(0x019b_76db_9260_7000_8000_0000_0000_0001);
    for paging in pagings(50_000) {
        for (filter, found) in [
            (by.clone(), 50),
            (audit::AuditFilter { event_type: Some("session.refreshed"), ..by.clone() }, 50),
            (audit::AuditFilter { category: Some("account"), ..by.clone() }, 50),
            (audit::AuditFilter { subject: Some(subject), ..by.clone() }, 0),
            (audit::AuditFilter { until: Some(90_000), after: Some(10), ..by.clone() }, 50),
        ] {
            let before = read().await;
            // Planned for these values, as a search with several conditions is.
            let mut statement = audit::statement(&filter, &paging);
            let rows = statement.build().persistent(false).fetch_all(&pool).await.unwrap();
            assert_eq!(rows.len().min(50), found, "{filter:?} {paging:?}");
            let entries = read().await - before;
            // One event in ten has the address: a page of them lies among 500, in each of two indexes. All would be 110,000.
            assert!(entries < 3_000, "{filter:?} {paging:?} reads {entries} entries");
        }
    }
}
