//! The change that an administrative event made, worked out when the event is read: from the event, and from at most one other,
//! the one before it in its stream. An append does nothing for it.

use fulexo_domain::change::{FieldChange, administrative_change, needs_previous};
use fulexo_domain::event::RecordedEvent;
use fulexo_domain::leaf;
use fulexo_node::answer::query_failed;
use fulexo_node::http::Problem;
use fulexo_projections::read_models::audit::{self, AuditEntry};
use poem_openapi::Object;
use poem_openapi::types::Any;
use serde_json::Value;
use sqlx::PgPool;

/// A field that an event changed.
#[derive(Object)]
#[oai(rename = "FieldChange")]
pub struct FieldChangeResource {
    /// The name of the field, as in the resource that the event changed: `suspended`, `roles.auditor`, `permissions`,
    /// `lockout.threshold`.
    field: String,
    /// The value before the event. `null` if there was none.
    before: Any<Value>,
    /// The value after the event. `null` if there is none.
    after: Any<Value>,
}

impl From<FieldChange> for FieldChangeResource {
    fn from(change: FieldChange) -> Self {
        Self { field: change.field.into_owned(), before: Any(change.before), after: Any(change.after) }
    }
}

/// Works out the change of an event. `None` if administrators cause no such event, or if it or the one before it is not as it
/// was recorded: nothing is concluded from such an event.
///
/// # Errors
/// Those of a query.
pub async fn change_of(pool: &PgPool, entry: &AuditEntry) -> Result<Option<Vec<FieldChangeResource>>, Problem> {
    let Some(recorded) = sound(entry) else { return Ok(None) };
    let before = recorded.version.checked_sub(1).filter(|version| *version > 0 && needs_previous(&recorded.event));
    let previous = match before {
        Some(version) => {
            let mut connection = pool.acquire().await.map_err(query_failed)?;
            let entry = audit::at_version(&mut connection, recorded.stream, version).await.map_err(query_failed)?;
            let Some(previous) = entry.as_ref().and_then(sound) else { return Ok(None) };
            if (previous.stream, previous.version) != (recorded.stream, version) {
                return Ok(None);
            }
            Some(previous.event)
        }
        None => None,
    };
    let change = administrative_change(&recorded.event, previous.as_ref());
    Ok(change.map(|change| change.into_iter().map(FieldChangeResource::from).collect()))
}

/// The event, if its leaf has the hash on record and this build can decode it.
fn sound(entry: &AuditEntry) -> Option<RecordedEvent> {
    let recorded = leaf::decode(entry.position.unsigned_abs(), &entry.leaf).ok()?;
    (leaf::hash(&entry.leaf) == *entry.leaf_hash).then_some(recorded)
}
