//! The turn to copy: a node has it for as long as the node runs; a program that comes, changes something and ends never
//! has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use fulexo_commands::log::relay::{CopyKey, LogRelay, RelayOptions, release_lease};
use fulexo_tests::{Database, NatsCluster, NatsVersion, Node, Program, eventually, operator, superuser};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::{append, assert_is_the_log, copied, env, messages, relaying};

/// Returns the holder of the turn, a flag that is `true` if the turn is over, and the position that the copy has
/// reached.
async fn turn(pool: &PgPool) -> (Option<Uuid>, bool, i64) {
    sqlx::query_as("select holder, held_until <= clock_timestamp(), position from log.relay")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Returns the stream's configuration, and the number of its messages.
async fn held(jetstream: &Context, stream: &str) -> (Config, u64) {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let info = stream.cached_info();
    (info.config.clone(), info.state.messages)
}

fn run(arguments: &[&str], env: &BTreeMap<String, String>) {
    let ended = block_in_place(|| Program::start(arguments, env).wait());
    assert!(ended.status.success(), "{arguments:?}: {}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_ends_leaves_the_copy_and_the_read_models_to_nodes() {
    for version in NatsVersion::ALL {
        let nats = NatsCluster::one(version).await;
        let node = relaying(&nats).await;
        let database = Arc::clone(&node.database);
        append(&database, 50).await;
        let stream = copied(&[&node]).await;
        // Nobody copies now: any node that tried would have the turn. A node that finds the database too busy lets its
        // turn run out.
        node.stop().await;
        let pool = superuser(&database).await;
        eventually("nobody has the turn", async || turn(&pool).await.1).await;
        let jetstream = nats.jetstream().await;
        let (config, _) = held(&jetstream, &stream).await;
        jetstream.update_stream(Config { num_replicas: 3, ..config }).await.unwrap();

        // This node copies nothing, and is suspended: a lockdown waits until its lease has run out.
        let mut bare = env(&database, &nats.url(), 0);
        bare.insert("FULEXO_PORT".to_owned(), "0".to_owned());
        let mut held_up = block_in_place(|| Program::start(&["serve"], &bare));
        block_in_place(|| held_up.says("listening on "));
        held_up.signal("STOP");
        // Without it a node copies to one server.
        bare.remove("FULEXO_NATS_REPLICAS");

        let views = "select name, position from projection.checkpoint order by name";
        let views = async || sqlx::query_as::<_, (String, i64)>(views).fetch_all(&pool).await.unwrap();
        let before = (turn(&pool).await, held(&jetstream, &stream).await, views().await);
        run(&["register", "--email", "root@example.com", "--role", "admin"], &bare);
        run(&["lockdown", "logins", "--reason", "a test"], &bare);
        assert_eq!((turn(&pool).await, held(&jetstream, &stream).await, views().await), before, "{version:?}");
        held_up.kill();

        let node = Node::with(&database, env(&database, &nats.url(), 1)).await;
        assert_eq!(copied(&[&node]).await, stream);
        assert_is_the_log(&database, &messages(&jetstream, &stream).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_ends_its_turn() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let database = Arc::new(Database::create().await);
    append(&database, 50).await;
    let mut variables = env(&database, &nats.url(), 1);
    variables.insert("FULEXO_PORT".to_owned(), "0".to_owned());
    let pool = superuser(&database).await;
    let mut program = block_in_place(|| Program::start(&["serve"], &variables));
    block_in_place(|| program.says("listening on "));
    eventually("it copies", async || matches!(turn(&pool).await, (Some(_), false, 50))).await;
    let ended = block_in_place(|| program.stop("TERM"));
    assert!(ended.status.success(), "{}", ended.errors);
    let (_, is_over, _) = turn(&pool).await;
    assert!(is_over, "others need not wait until it runs out: {}", ended.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_turn_was_ended_takes_no_other_one() {
    let nats = NatsCluster::one(NatsVersion::Current).await;
    let database = Arc::new(Database::create().await);
    append(&database, 50).await;
    // It copies nothing itself.
    let node = Node::with(&database, env(&database, &nats.url(), 0)).await;
    let pool = fulexo_node::database::connect(&database.url(), 4).await.unwrap();
    let (client, key) = (nats.jetstream().await.client(), CopyKey::of(node.app().commands.vault()));
    let (ended, other) = (operator().new_id(), operator().new_id());
    let run = |holder| {
        let options = RelayOptions { client: client.clone(), key: key.clone(), replicas: 1, holder };
        let (head, known_head) = watch::channel(50);
        let (relay, state) = LogRelay::new(pool.clone(), options, known_head);
        (head, tokio::spawn(relay.run()), state)
    };
    // This is like a statement that arrives after its task has ended: the whole relay continues.
    let (head, relay, mut state) = run(ended);
    state.wait_for(|state| state.is_here && state.position == 50).await.unwrap();
    release_lease(&pool, ended).await.unwrap();
    head.send_replace(51);
    state.wait_for(|state| !state.is_here).await.unwrap();
    let (holder, is_over, _) = turn(&pool).await;
    assert_eq!((holder, is_over), (Some(ended), true));
    let (_head, successor, mut state) = run(other);
    state.wait_for(|state| state.is_here && state.position == 50).await.unwrap();
    let (holder, is_over, _) = turn(&pool).await;
    assert_eq!((holder, is_over), (Some(other), false), "another one need not wait");
    for task in [relay, successor] {
        task.abort();
    }
}
