//! The export of the audit trail: a stream of lines for auditors and for systems that collect events.

use chrono::DateTime;
use fulexo_commands::EventCopy;
use fulexo_domain::audit::CopyForm;
use fulexo_domain::event::Actor;
use fulexo_domain::permission::Permission;
use fulexo_node::answer::query_failed;
use fulexo_node::caller::{BearerOrKey, app};
use fulexo_node::export_stream::{ExportFailure, ExportSource, ExportStream};
use fulexo_node::http::Problem;
use fulexo_node::http::files::takes_gzip;
use fulexo_node::http::problem::FieldError;
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Categories, EventTypes, ExportFormats, OcsfVersions, Word};
use fulexo_projections::export::ocsf::OcsfVersion;
use fulexo_projections::export::{ExportFormat, ExportRange, ExportReader, ExportWindow};
use fulexo_projections::feed::FeedError;
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::audit::{AuditEntry, AuditFilter};
use poem::http::Version;
use poem::{Body, Request};
use poem_openapi::param::{Header, Query};
use poem_openapi::payload::Binary;
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::audit_filter::{AddressParameter, FilterParameters, copy_filter};
use super::tag::Tag;

pub struct AuditExports;

/// The lines of an export.
#[derive(ApiResponse)]
enum ExportResponse {
    /// One JSON document per line.
    #[oai(status = 200, content_type = "application/x-ndjson")]
    Lines(
        Binary<Body>,
        /// A name for a file.
        #[oai(header = "Content-Disposition")]
        String,
        /// `gzip`, if the request accepts it.
        #[oai(header = "Content-Encoding")]
        Option<String>,
        /// The request headers that select the content.
        #[oai(header = "Vary")]
        String,
        /// The position of the first event in the range of the export. Missing if the range is empty.
        #[oai(header = "Export-From")]
        Option<u64>,
        /// The position of the last event in the range of the export. Missing if the range is empty.
        #[oai(header = "Export-Until")]
        Option<u64>,
        /// The position of the last event that the response is sure to include.
        #[oai(header = "Log-Position")]
        Option<u64>,
    ),
}

#[OpenApi(prefix_path = "/v1/audit", tag = "Tag::Audit")]
impl AuditExports {
    /// Export events
    ///
    /// Needs the permission `audit.read`. Returns one line per event, in the order of the log, up to the last event that
    /// `list_audit_events` would show at the time of the request. Filters are combined with AND. `leaves` has no filters but
    /// `after`, `from` and `to`.
    ///
    /// Each export is an event itself, `audit.exported`, unless its range is empty.
    ///
    /// A response that ends without an error is complete. It ends with an error, and the connection with it, if you lose the
    /// permission, your token expires, or an event cannot be read. Continue with the position of the last whole line in
    /// `after`. Without a filter the export has every position from `Export-From` to `Export-Until`.
    ///
    /// A caller may have 2 exports under way at a node (429), and a node 8 (503). One whose client takes nothing for a minute is
    /// ended. HTTP/1.0 is refused: it does not tell a complete response from another one.
    #[oai(path = "/export", method = "get", operation_id = "export_audit_events")]
    async fn export(
        &self,
        request: &Request,
        caller: BearerOrKey,
        /// The format of the lines. The default is `ndjson`.
        format: Query<Option<Word<ExportFormats>>>,
        /// The version of OCSF, for the format `ocsf`. The default is `1.8.0`.
        ocsf_version: Query<Option<Word<OcsfVersions>>>,
        /// A filter for events with a greater position.
        after: Query<Option<u64>>,
        /// A filter for events recorded at or after this time (RFC 3339).
        from: Query<Option<Timestamp>>,
        /// A filter for events recorded before this time (RFC 3339).
        to: Query<Option<Timestamp>>,
        /// A filter for events of this type.
        #[oai(name = "type")]
        event_type: Query<Option<Word<EventTypes>>>,
        /// A filter for events of this category.
        category: Query<Option<Word<Categories>>>,
        /// A filter for events that concern this account.
        subject: Query<Option<Uuid>>,
        /// A filter for events that this account or API key caused.
        actor: Query<Option<Uuid>>,
        /// A filter for events that this request caused.
        correlation: Query<Option<Uuid>>,
        /// A filter for events of this session, and of the login that began it.
        session: Query<Option<Uuid>>,
        /// A filter for events that concern this API key, or that it caused.
        api_key: Query<Option<Uuid>>,
        /// A filter for events that have this id: as their own, or as that of their stream, subject, actor or correlation.
        id: Query<Option<Uuid>>,
        /// A filter for events that have this address sealed alongside them, by the digest that `POST /v1/audit/addresses` answers.
        /// Needs the permission `audit.unseal`, too.
        address: Query<Option<AddressParameter>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<ExportResponse, Problem> {
        let caller = caller.0;
        caller.require(Permission::AuditRead)?;
        let app = app(request)?;
        let parameters = FilterParameters {
            event_type: event_type.0,
            category: category.0,
            subject: subject.0,
            actor: actor.0,
            correlation: correlation.0,
            session: session.0,
            api_key: api_key.0,
            id: id.0,
            address: address.0,
        };
        let needs = parameters.needs();
        caller.require_all(needs)?;
        let filter = parameters.filter();
        let window = ExportWindow { after: after.0, from: from.0.map(DateTime::from), to: to.0.map(DateTime::from) };
        let format = read_format(format.0.map(|word| word.0), ocsf_version.0.map(|word| word.0), &filter)?;
        if request.version() < Version::HTTP_11 {
            return Err(refused("", "HTTP/1.0 does not tell a complete export from one that was cut: use HTTP/1.1"));
        }
        let permit = app.export(holder(caller.actor)?)?;
        let end = app.caught_up(Projection::Audit, min_position.0).await?.last();
        let range = {
            let _few = app.look_back().await?;
            ExportRange::of(&app.pool, window, end).await.map_err(unreadable)?
        };
        let is_compressed = takes_gzip(request.headers());
        if let Some(range) = range {
            let (form, filter) = (copy_form(format), copy_filter(&filter));
            app.record_copy(request, &caller, EventCopy { form, first: range.first, last: Some(range.last), filter })
                .await?;
        }
        let reader = ExportReader::new(app.pool.clone(), range, filter);
        let source = AuditLines { reader, format, page: Vec::new().into_iter(), failure: None };
        let export = ExportStream { app: app.clone(), caller, needs, source, is_compressed, permit };
        Ok(ExportResponse::Lines(
            Binary(export.into_body()),
            format!("attachment; filename=\"{}\"", file_name(format, range)),
            is_compressed.then(|| "gzip".to_owned()),
            "accept-encoding".to_owned(),
            range.map(|range| range.first),
            range.map(|range| range.last),
            end,
        ))
    }
}

/// The least length of a piece of lines, in bytes, but for the last one.
const PIECE: usize = 64 * 1_024;

/// The lines of events, read page by page.
struct AuditLines {
    reader: ExportReader,
    format: ExportFormat,
    /// The rest of the page that was read last.
    page: std::vec::IntoIter<AuditEntry>,
    /// The failure that follows the lines that were returned last.
    failure: Option<ExportFailure>,
}

impl AuditLines {
    /// Appends lines until they are long enough, or there are no more.
    async fn append(&mut self, lines: &mut Vec<u8>) -> Result<(), ExportFailure> {
        loop {
            for entry in self.page.by_ref() {
                self.format.append_line(&entry, lines)?;
                if lines.len() >= PIECE {
                    return Ok(());
                }
            }
            match self.reader.next().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(()),
            }
        }
    }
}

impl ExportSource for AuditLines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ExportFailure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut lines = Vec::new();
        let ended = self.append(&mut lines).await;
        // The lines before an event that cannot be written are sound.
        match (lines.is_empty(), ended) {
            (true, Err(failure)) => Err(failure),
            (true, Ok(())) => Ok(None),
            (false, ended) => {
                self.failure = ended.err();
                Ok(Some(lines))
            }
        }
    }

    fn read_up_to(&self) -> Option<u64> {
        self.reader.read_up_to()
    }
}

/// The format with its version.
///
/// # Errors
/// 400 for parameters that the format does not have.
fn read_format(
    format: Option<&'static str>,
    version: Option<&'static str>,
    filter: &AuditFilter,
) -> Result<ExportFormat, Problem> {
    let is_versioned = version.is_some();
    // Words of closed lists that are made of these.
    let version = version.and_then(OcsfVersion::find).unwrap_or_default();
    let format = format.and_then(|name| ExportFormat::find(name, version)).unwrap_or(ExportFormat::Ndjson);
    match format {
        ExportFormat::Ndjson | ExportFormat::Leaves if is_versioned => {
            Err(refused("/ocsf_version", "is for the format ocsf alone"))
        }
        ExportFormat::Leaves if filter.is_given() => {
            Err(refused("/format", "must be ndjson or ocsf with a filter other than after, from and to"))
        }
        ExportFormat::Ndjson | ExportFormat::Ocsf(_) | ExportFormat::Leaves => Ok(format),
    }
}

const fn copy_form(format: ExportFormat) -> CopyForm {
    match format {
        ExportFormat::Ndjson => CopyForm::Ndjson,
        ExportFormat::Ocsf(_) => CopyForm::Ocsf,
        ExportFormat::Leaves => CopyForm::Leaves,
    }
}

/// The id under which the exports of a caller are counted.
fn holder(actor: Actor) -> Result<Uuid, Problem> {
    actor.id().ok_or_else(|| Problem::internal("a caller without an id"))
}

fn file_name(format: ExportFormat, range: Option<ExportRange>) -> String {
    let range = range.map_or_else(|| "empty".to_owned(), |range| format!("{}-{}", range.first, range.last));
    match format {
        ExportFormat::Ndjson => format!("fulexo-audit-{range}.ndjson"),
        ExportFormat::Ocsf(version) => format!("fulexo-audit-{range}.ocsf-{}.ndjson", version.as_str()),
        ExportFormat::Leaves => format!("fulexo-audit-{range}.leaves.ndjson"),
    }
}

fn refused(pointer: &str, detail: &'static str) -> Problem {
    Problem::invalid_input(vec![FieldError::new(pointer, detail)])
}

fn unreadable(error: FeedError) -> Problem {
    match error {
        FeedError::Database(error) => query_failed(error),
        error @ (FeedError::Leaf(_)
        | FeedError::WrongHash { .. }
        | FeedError::Disagrees { .. }
        | FeedError::Task(_)
        | FeedError::Gap { .. }) => Problem::internal(error),
    }
}
