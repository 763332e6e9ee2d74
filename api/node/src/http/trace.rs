//! One line of log for each request, and the span its other lines belong to.
//!
//! Logged: request id, method, operation, status, milliseconds. Never the path, the query or the address: they
//! carry tokens and personal data. poem's `Tracing` logs all three.

use std::sync::{Arc, OnceLock};

use poem::Request;
use poem::http::{Method, StatusCode};
use tokio::time::Instant;
use tracing::Span;

use super::request_id::RequestId;

/// The name of the handler that took the request. The handler writes it, for the line that is logged outside of it.
#[derive(Clone, Default)]
struct OperationName(Arc<OnceLock<&'static str>>);

/// Names the operation that handles this request. Routes outside OpenAPI call it themselves; without it the
/// request is logged as `unmatched`.
pub fn name_operation(request: &Request, name: &'static str) {
    if let Some(operation) = request.data::<OperationName>() {
        // The first name stays: the outermost router knows best.
        let _ = operation.0.set(name);
        Span::current().record("operation", name);
    }
}

/// The span around the handler. Its operation is filled in by `name_operation`.
pub(super) fn span(id: RequestId) -> Span {
    tracing::info_span!("request", request_id = %id.0, operation = tracing::field::Empty)
}

/// The line to be: written when dropped, so that a request whose client went away is logged too.
pub(super) struct Record {
    id: RequestId,
    method: &'static str,
    operation: OperationName,
    began: Instant,
    status: Option<StatusCode>,
}

impl Record {
    pub(super) fn begin(id: RequestId, request: &mut Request) -> Self {
        let operation = OperationName::default();
        request.set_data(operation.clone());
        Self { id, method: known_method(request.method()), operation, began: Instant::now(), status: None }
    }

    /// Returns the time at which the request came in.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let micros = self.began.elapsed().as_micros();
        tracing::info!(
            request_id = %self.id.0,
            method = self.method,
            operation = self.operation.0.get().copied().unwrap_or("unmatched"),
            status = self.status.map(|status| status.as_u16()),
            aborted = self.status.is_none().then_some(true),
            duration_ms = micros as f64 / 1000.0,
            "request"
        );
    }
}

/// The method is the client's to choose, so only known ones are written.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
