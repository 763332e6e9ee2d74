//! The faces of the service, as one endpoint: the API, its document and page, the account pages, the page of problems, `/`.
//!
//! The edge is not part of it: the node puts that around whatever it is handed.

use std::sync::Arc;

use fulexo_node::http::files;
use fulexo_node::start_error::StartError;
use fulexo_node::state::App;
use poem::{Endpoint, EndpointExt, Response};

use crate::pages::{account, docs, front, problems};
use crate::routes;

/// Makes the faces over a node's state. With a front page, `/` leads to the documentation.
///
/// # Errors
/// When the docs page cannot be made.
pub fn endpoint(app: Arc<App>, has_front_page: bool) -> Result<impl Endpoint<Output = Response> + use<>, StartError> {
    let docs =
        docs::files(routes::spec()).map_err(|error| StartError(format!("the docs page cannot be opened: {error}")))?;
    let files = docs.into_iter().chain(account::files()).chain(problems::files());
    let app = files::beside(routes::service(), files).data(app);
    Ok(front::before(app, has_front_page))
}
