//! The path `/`. In development it redirects to the documentation, so that a browser shows something at the service's URL.

use fulexo_node::http::trace;
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, IntoEndpoint, IntoResponse, Request, Response};

/// Adds the front page to `app`, if it is `shown`.
pub fn before<A>(app: A, shown: bool) -> impl Endpoint<Output = Response>
where
    A: IntoEndpoint,
    A::Endpoint: 'static,
{
    FrontPage { app: app.into_endpoint(), shown }
}

struct FrontPage<E> {
    app: E,
    shown: bool,
}

impl<E: Endpoint> Endpoint for FrontPage<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let asked = request.uri().path() == "/" && [Method::GET, Method::HEAD].contains(request.method());
        if !(self.shown && asked) {
            return self.app.call(request).await.map(IntoResponse::into_response);
        }
        trace::name_operation(&request, "get_front_page");
        let mut response = Response::builder().status(StatusCode::FOUND).finish();
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/docs"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use poem::endpoint::make_sync;

    use super::*;

    async fn asked(method: Method, path: &str, shown: bool) -> (StatusCode, Option<String>) {
        let app = before(make_sync(|_| StatusCode::NOT_FOUND.into_response()), shown);
        let response = app.get_response(Request::builder().method(method).uri_str(path).finish()).await;
        (response.status(), response.header("location").map(str::to_owned))
    }

    #[tokio::test]
    async fn the_front_page_leads_to_the_documentation_where_it_is_shown() {
        let (nothing, docs) = ((StatusCode::NOT_FOUND, None), (StatusCode::FOUND, Some("/docs".to_owned())));
        assert_eq!(asked(Method::GET, "/", true).await, docs);
        assert_eq!(asked(Method::HEAD, "/?a=b", true).await, docs);
        assert_eq!(asked(Method::POST, "/", true).await, nothing);
        assert_eq!(asked(Method::GET, "//", true).await, nothing);
        assert_eq!(asked(Method::GET, "/", false).await, nothing);
    }
}
