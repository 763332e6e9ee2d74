//! Events that no command made: drafts to append, and one that nobody can read.

use fulexo_commands::log::AppendRequest;
use fulexo_database::begin_on;
use fulexo_domain::account::AccountEvent;
use fulexo_domain::event::{Actor, Event, Stream};
use fulexo_domain::leaf::{self, EventDraft};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::cluster::Database;
use crate::looking::eventually;
use crate::node::Node;
use crate::operator;

/// Returns an event of this stream, recorded by the system itself, about the stream's own account.
pub fn draft(event: impl Into<Event>, stream: Uuid) -> EventDraft {
    let (event, id) = (event.into(), operator().new_id());
    EventDraft {
        id,
        stream: Stream { category: event.category(), id: stream },
        subject: Some(stream),
        actor: Actor::System,
        correlation: id,
        causation: None,
        policy_version: 1,
        event,
        sealed: Vec::new(),
    }
}

/// Writes a valid event, followed at once by one of an unknown type: every follower of the log stops before it. Returns
/// the position of the second.
pub async fn poison(database: &Database) -> u64 {
    let (now, good) = (operator().now, Uuid::from_u128(1));
    let sound = draft(AccountEvent::Registered {}, good).encode().unwrap().leaf(now, 1);
    let text = String::from_utf8(sound.clone()).unwrap();
    let poison =
        text.replace("account.registered", "account.reinvented").replace(&good.to_string(), &Uuid::nil().to_string());

    let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
    let mut transaction = begin_on(&mut connection).await.unwrap();
    let head: i64 =
        sqlx::query_scalar("select position from log.head for update").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("alter table log.event_0 disable trigger append_only").execute(&mut *transaction).await.unwrap();
    for (position, stream, leaf) in [(head, good, sound), (head + 1, Uuid::nil(), poison.into_bytes())] {
        let statement = "insert into log.event_0 (position, stream_id, category, version, leaf, leaf_hash)
                         values ($1, $2, 'account', 1, $3, $4)";
        let hash = leaf::hash(&leaf).to_vec();
        let insert = sqlx::query(statement).bind(position).bind(stream).bind(leaf).bind(hash);
        insert.execute(&mut *transaction).await.unwrap();
    }
    sqlx::query("alter table log.event_0 enable always trigger append_only").execute(&mut *transaction).await.unwrap();
    sqlx::query("update log.head set position = position + 2").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    head.unsigned_abs() + 1
}

/// Keeps a node, and every other one on its database, from following the log; returns when this one's lease is over.
pub async fn cut_off(node: &Node) {
    poison(&node.database).await;
    eventually("the lease has run out", async || !node.app().gate.holds_lease()).await;
}

/// Appends this many more events to a stream of this account, as a command would: through the node's own log.
pub async fn lengthen(node: &Node, account: Uuid, stream: Uuid, event: impl Into<Event>, count: usize) {
    const AT_ONCE: usize = 500;
    let event = event.into();
    let mut left = count;
    while left > 0 {
        let events = (0..left.min(AT_ONCE)).map(|_| {
            let mut draft = draft(event.clone(), stream);
            draft.subject = Some(account);
            draft.encode().unwrap()
        });
        let request = AppendRequest { events: events.collect(), ..AppendRequest::default() };
        left -= request.events.len();
        node.app().commands.log().append(request).await.unwrap();
    }
}
