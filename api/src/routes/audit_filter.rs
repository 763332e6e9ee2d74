//! The filters that the list, the stream and the export of events share.

use fulexo_domain::audit::CopyFilter;
use fulexo_node::vocabulary::{Categories, EventTypes, Word};
use fulexo_projections::read_models::audit::AuditFilter;
use uuid::Uuid;

/// The parameters that select events, apart from their range.
pub struct FilterParameters {
    pub event_type: Option<Word<EventTypes>>,
    pub category: Option<Word<Categories>>,
    pub subject: Option<Uuid>,
    pub actor: Option<Uuid>,
    pub correlation: Option<Uuid>,
    pub session: Option<Uuid>,
    pub api_key: Option<Uuid>,
    pub id: Option<Uuid>,
}

impl FilterParameters {
    /// The filter of these parameters, without a range.
    pub fn filter(self) -> AuditFilter {
        let Self { event_type, category, subject, actor, correlation, session, api_key, id } = self;
        let (event_type, category) = (event_type.map(|word| word.0), category.map(|word| word.0));
        AuditFilter {
            event_type,
            category,
            subject,
            actor,
            correlation,
            session,
            api_key,
            id,
            ..AuditFilter::default()
        }
    }
}

/// The filter of a copy, as the log records it.
pub fn copy_filter(filter: &AuditFilter) -> CopyFilter {
    CopyFilter {
        actor: filter.actor,
        api_key: filter.api_key,
        category: filter.category.map(str::to_owned),
        correlation: filter.correlation,
        id: filter.id,
        session: filter.session,
        subject: filter.subject,
        r#type: filter.event_type.map(str::to_owned),
    }
}
