//! The endpoint of the service: the API, its document, and the pages.
//!
//! The edge is not part of the endpoint. The node adds it.

use std::sync::Arc;

use fulexo_node::http::files;
use fulexo_node::start_error::StartError;
use fulexo_node::state::App;
use poem::{Endpoint, EndpointExt, Response};

use crate::pages::{account, docs, front, problems, schemas};
use crate::routes;

/// Creates the endpoint from a node's state. With a front page, `/` redirects to the documentation.
///
/// # Errors
/// If the docs page cannot be created.
pub fn endpoint(app: Arc<App>, has_front_page: bool) -> Result<impl Endpoint<Output = Response> + use<>, StartError> {
    let docs =
        docs::files(routes::spec()).map_err(|error| StartError(format!("cannot create the docs page: {error}")))?;
    let files = docs.into_iter().chain(account::files()).chain(problems::files()).chain(schemas::files());
    let app = files::beside(routes::tiles_before(routes::service()), files).data(app);
    Ok(front::before(app, has_front_page))
}
