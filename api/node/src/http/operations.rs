//! The additions to the handler of every OpenAPI operation: its name in the log, its parameters checked, and an `Allow`
//! header on the methods its path does not have.
//!
//! Wraps an `OpenApi` and is one itself, so it sits where poem-openapi still knows the operation: outside of
//! `OpenApiService` an error has lost its parameter's name, and a 405 its path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fulexo_domain::rate_limit::{RateLimitLayer, RouteGroup};
use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderValue, Method};
use poem::{Endpoint, EndpointExt, Request, Response};
use poem_openapi::OpenApi;
use poem_openapi::registry::{MetaApi, MetaOperation, MetaSchema, Registry};

use super::client_address::ClientAddress;
use super::parameters::Parameters;
use super::problem::Problem;
use super::standing::Standing;
use super::strict_json::BodySchema;
use super::{media_type, request_head, trace};
use crate::limits::Limits;

/// The APIs of the service: `OpenApiService::new(Operations((Auth, Me, ...)), ...)`.
pub struct Operations<T>(pub T);

type Methods = HashMap<Method, BoxEndpoint<'static>>;

impl<T: OpenApi> OpenApi for Operations<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, Methods>) {
        let mut registry = Registry::new();
        T::register(&mut registry);
        let named = Arc::new(registry.schemas);

        let mut routes: HashMap<String, Methods> = HashMap::new();
        self.0.add_routes(&mut routes);
        for path in T::meta().into_iter().flat_map(|api| api.paths) {
            let (pattern, parameters) = routed(&path.path);
            let Some(methods) = routes.get_mut(&pattern) else {
                continue;
            };
            for operation in path.operations {
                let method = operation.method.clone();
                if let Some(handler) = methods.remove(&method) {
                    let wrapped = Operation::new(handler, operation, &parameters, &named);
                    methods.insert(method, wrapped.boxed());
                }
            }
        }
        for methods in routes.values_mut() {
            refuse_the_rest(methods);
        }
        table.extend(routes);
    }
}

/// The key of poem-openapi's route table for a published path, and the names of the parameters in it: it calls
/// them `param0`, `param1` and so on, in its errors too.
fn routed(path: &str) -> (String, Vec<String>) {
    let mut pattern = String::new();
    let mut parameters = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => {
                pattern.push_str(&format!("/:param{}", parameters.len()));
                parameters.push(name.to_owned());
            }
            None => {
                pattern.push('/');
                pattern.push_str(segment);
            }
        }
    }
    if pattern.is_empty() {
        pattern.push('/');
    }
    (pattern, parameters)
}

/// Answers 405 with `Allow` to every known method that a path lacks; poem would leave `Allow` out.
fn refuse_the_rest(methods: &mut Methods) {
    let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
    if methods.contains_key(&Method::GET) && !methods.contains_key(&Method::HEAD) {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    let Ok(allow) = HeaderValue::from_str(&allowed.join(", ")) else {
        return;
    };
    // HEAD goes to GET by itself.
    for method in request_head::methods().filter(|method| *method != Method::HEAD) {
        let refusal = Problem::method_not_allowed(Some(allow.clone()));
        methods
            .entry(method)
            .or_insert_with(|| poem::endpoint::make_sync(move |_| Err::<Response, _>(refusal.clone())).boxed());
    }
}

struct Operation {
    handler: BoxEndpoint<'static>,
    name: &'static str,
    parameters: Parameters,
    /// `true` if it asks nobody who they are.
    is_public: bool,
    /// The schema for `JsonBody`, which reads when the handler asks.
    body: Option<Arc<BodySchema>>,
    /// The quota of an address on it, in addition to those that hold everywhere.
    route: Option<RouteGroup>,
    /// The quotas of an account on it.
    account_quotas: AccountQuotas,
}

/// The quotas that an operation counts for its caller, once the caller is known, in addition to those that hold
/// everywhere.
#[derive(Clone, Copy)]
pub struct AccountQuotas(pub &'static [RouteGroup]);

/// The quotas of an operation in addition to those of every request: one of the address, those of the account. `None`
/// for an operation that was forgotten here; one that only reads needs no quota.
fn quotas(operation: &str) -> Option<&'static [RouteGroup]> {
    Some(match operation {
        "login" => &[RouteGroup::Login],
        "register" => &[RouteGroup::Register],
        // Of its account once the token was good.
        "refresh_tokens" => &[RouteGroup::Refresh],
        "login_with_second_factor" => &[RouteGroup::SecondFactor],
        "request_password_reset" | "reset_password" | "verify_email" | "report_intrusion" => &[RouteGroup::Recovery],
        "request_email_verification" => &[RouteGroup::Recovery, RouteGroup::Credentials],
        "change_me" | "export_me" => &[RouteGroup::Profile],
        "change_my_password" | "step_up" => &[RouteGroup::Password],
        "enrol_totp"
        | "confirm_totp"
        | "remove_totp"
        | "issue_recovery_codes"
        | "create_api_key"
        | "revoke_api_key"
        | "start_erasure"
        | "withdraw_erasure" => &[RouteGroup::Credentials],
        "logout" | "revoke_my_session" | "revoke_my_other_sessions" | "forget_my_device" => &[RouteGroup::Sessions],
        "create_account"
        | "change_account"
        | "expire_account_password"
        | "reinstate_account"
        | "reset_account_second_factor"
        | "grant_role"
        | "revoke_role"
        | "revoke_account_sessions"
        | "suspend_account"
        | "erase_account"
        | "unlock_account"
        | "revoke_session"
        | "impose_lockdown"
        | "lift_lockdown"
        | "open_incident"
        | "report_alerts"
        | "change_incident"
        | "contain_incident"
        | "eradicate_incident"
        | "recover_incident"
        | "close_incident"
        | "note_incident"
        | "unseal_audit_event"
        | "digest_address"
        | "change_policy"
        | "preview_policy"
        | "define_role"
        | "retire_role"
        // Each is recorded.
        | "export_audit_events"
        | "stream_audit_events" => &[RouteGroup::Administration],
        // A service asks about each request that it gets, and nothing changes by it.
        "introspect_token" => &[],
        _ => return None,
    })
}

impl Operation {
    fn new(
        handler: BoxEndpoint<'static>,
        meta: MetaOperation,
        in_path: &[String],
        named: &Arc<BTreeMap<String, MetaSchema>>,
    ) -> Self {
        let body = meta.request.and_then(|request| {
            let required = request.required;
            let json = request.content.into_iter().find(|content| media_type::is_json(content.content_type))?;
            Some(Arc::new(BodySchema::new(json.schema, Arc::clone(named), required)))
        });
        let name = meta.operation_id.unwrap_or("unnamed");
        let quotas = quotas(name).unwrap_or_default();
        // Those of the address stand before those of the account.
        let by_address = quotas.iter().take_while(|route| route.layer() == RateLimitLayer::Address).count();
        let (by_address, by_account) = quotas.split_at(by_address);
        let (route, account_quotas) = (by_address.first().copied(), AccountQuotas(by_account));
        let (parameters, is_public) = (Parameters::new(meta.params, in_path, named), meta.security.is_empty());
        Self { handler, name, parameters, is_public, body, route, account_quotas }
    }
}

impl Endpoint for Operation {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        trace::name_operation(&request, self.name);
        let standing = self.admitted(&request).await?;
        if !self.account_quotas.0.is_empty() {
            request.set_data(self.account_quotas);
        }
        if let Some(schema) = &self.body {
            request.set_data(Arc::clone(schema));
        }
        let answered = match self.parameters.faults(&request) {
            Some(faults) if self.is_public => Err(faults.refusal().into()),
            faults => {
                // Once the caller is known: `admit` in `caller.rs`.
                if let Some(faults) = faults {
                    request.set_data(Arc::new(faults));
                }
                self.handler.call(request).await
            }
        };
        let Some(standing) = standing else { return answered };
        match answered {
            Ok(mut response) => {
                standing.write(response.headers_mut());
                Ok(response)
            }
            Err(error) if error.is_from_response() => Err(error),
            Err(error) => Err(Problem::from(error).with_standing(standing).into()),
        }
    }
}

impl Operation {
    async fn admitted(&self, request: &Request) -> Result<Option<Standing>, Problem> {
        match (self.route, request.data::<Arc<Limits>>(), request.data::<ClientAddress>()) {
            // By the operation and not by the path, which can be spelt in many ways.
            // Boxed, so that other operations need not carry its state along.
            (Some(route), Some(limits), Some(address)) => Box::pin(limits.route(route, address.0)).await.map(Some),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_that_may_change_something_has_its_quotas() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("../../../../openapi.json")).expect("the published document");
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.values().flat_map(|path| path.as_object().expect("operations"));
        let unsafe_ones = operations.filter(|(method, _)| !["get", "head", "parameters"].contains(&method.as_str()));
        let names: Vec<&str> = unsafe_ones.map(|(_, it)| it["operationId"].as_str().expect("a name")).collect();
        assert!(names.len() >= 39, "{names:?}");
        let forgotten: Vec<_> = names.iter().filter(|name| quotas(name).is_none()).collect();
        assert!(forgotten.is_empty(), "without a quota: {forgotten:?}");
        for name in names {
            let layers: Vec<RateLimitLayer> = quotas(name).into_iter().flatten().map(|route| route.layer()).collect();
            let of_addresses = layers.iter().filter(|layer| **layer == RateLimitLayer::Address).count();
            assert!(
                of_addresses <= 1 && layers.iter().skip(of_addresses).all(|it| *it == RateLimitLayer::Account),
                "{name}"
            );
        }
    }

    #[test]
    fn a_published_path_is_found_in_the_route_table() {
        assert_eq!(
            routed("/v1/accounts/{id}/roles/{role}"),
            ("/v1/accounts/:param0/roles/:param1".to_owned(), vec!["id".to_owned(), "role".to_owned()])
        );
        assert_eq!(routed("/"), ("/".to_owned(), Vec::new()));
    }
}
