//! The containment of an incident: its measures, and the result of each.

use chrono::{DateTime, Utc};
use fulexo_domain::lockdown::LockdownScope;
use fulexo_domain::permission::Permission;
use fulexo_domain::values::{AccountId, ApiKeyId, IncidentId, Reason};
use fulexo_node::answer::{CommandResponse, EnforcementResource};
use fulexo_node::caller::{Bearer, app, context};
use fulexo_node::containment::{ContainmentPlan, ContainmentResult, MeasureResult, RefusedTarget};
use fulexo_node::http::problem::FieldError;
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::read_models::sessions::SessionSelection;
use poem::Request;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::ParseFromParameter;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::audit_filter::AddressParameter;
use super::input::Input;
use super::tag::Tag;

pub struct Containments;

/// The sessions to revoke: those that meet every given condition.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SessionSelectionRequest {
    /// Sessions of these accounts.
    #[oai(validator(max_items = 100))]
    accounts: Option<Vec<Uuid>>,
    /// Sessions that began at this time (RFC 3339) or later.
    since: Option<Timestamp>,
    /// Sessions that began or were refreshed at the address with this digest, as `POST /v1/audit/addresses` answers it.
    address: Option<String>,
}

/// The measures that contain an incident. Each is optional.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ContainmentRequest {
    /// The reason, 1 to 500 characters. It is sealed alongside the events.
    reason: String,
    /// The scope of a lockdown: `logins` or `all`. One in force that denies as much stays as it is.
    lockdown: Option<String>,
    /// The API keys to revoke, by id.
    #[oai(default, validator(max_items = 100))]
    revoke_api_keys: Vec<Uuid>,
    /// The accounts to suspend, by id.
    #[oai(default, validator(max_items = 100))]
    suspend_accounts: Vec<Uuid>,
    /// The sessions to revoke. The caller's own session is spared.
    revoke_sessions: Option<SessionSelectionRequest>,
}

/// A target of a measure that was refused.
#[derive(Object)]
#[oai(rename = "RefusedTarget")]
struct RefusedTargetResource {
    /// The id of the target.
    id: Uuid,
    /// The code of the problem.
    code: String,
}

/// A measure that is in force.
#[derive(Object)]
struct ContainmentMeasure {
    /// The measure: `lockdown`, `revoke_api_keys`, `suspend_accounts` or `revoke_sessions`.
    measure: String,
    /// The number of targets that are out, those included that were so before.
    count: u32,
    /// The targets that were refused.
    refused: Vec<RefusedTargetResource>,
    /// `true` if more sessions match than one call revokes. Contain the incident again, with a new `Idempotency-Key`.
    more: bool,
    /// The position of the last event of the measure.
    position: u64,
    /// The number of nodes that enforced the measure when it was taken.
    enforced_on: u64,
    /// The names of the other nodes.
    down: Vec<String>,
}

/// A contained incident.
#[derive(Object)]
struct Containment {
    /// The measures, in the order in which they were taken.
    measures: Vec<ContainmentMeasure>,
    /// The enforcement of all measures.
    enforcement: EnforcementResource,
}

#[OpenApi(prefix_path = "/v1/incidents", tag = "Tag::Incidents")]
impl Containments {
    /// Contain an incident
    ///
    /// Needs the permission `incidents.manage`, the permission of each measure (`lockdown.manage`, `api_keys.manage`,
    /// `accounts.manage`, `sessions.revoke`, and `audit.unseal` for an address), and an elevated session. Takes the measures in
    /// this order: lockdown, API keys, accounts, sessions. Waits after each until every node enforces it, then records that the
    /// incident is contained. An incident can be contained again until it is closed.
    ///
    /// A call that was interrupted is repeated with the same `Idempotency-Key`, and continues. Answers 409 `incident_phase` if the
    /// incident is closed.
    #[oai(path = "/:incident_id/contain", method = "post", operation_id = "contain_incident")]
    async fn contain(
        &self,
        request: &Request,
        caller: Bearer,
        incident_id: Path<Uuid>,
        body: JsonBody<ContainmentRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<Containment>, Problem> {
        let caller = caller.0;
        caller.require(Permission::IncidentsManage)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let lockdown = input.parse_optional("/lockdown", body.lockdown.as_deref().map(LockdownScope::parse));
        let address = body.revoke_sessions.as_ref().and_then(|selection| selection.address.as_deref());
        let address = address
            .map(|address| AddressParameter::parse_from_parameter(address).map_err(|error| error.into_message()));
        let address = address.and_then(|address| input.parse("/revoke_sessions/address", address));
        let needs_address = address.is_some();
        let Some(reason) = reason else { return Err(input.refused()) };
        input.check()?;
        let sessions = body.revoke_sessions.map(|selection| SessionSelection {
            accounts: selection.accounts.map(|accounts| accounts.into_iter().map(AccountId).collect()),
            since: selection.since.map(DateTime::<Utc>::from),
            address: address.map(AddressParameter::digest),
            except: Some(caller.session),
        });
        if sessions.as_ref().is_some_and(|it| it.accounts.is_none() && it.since.is_none() && it.address.is_none()) {
            let fault = FieldError::new("/revoke_sessions", "must have a condition");
            return Err(Problem::invalid_input(vec![fault]));
        }
        for (is_asked, permission) in [
            (lockdown.is_some(), Permission::LockdownManage),
            (!body.revoke_api_keys.is_empty(), Permission::ApiKeysManage),
            (!body.suspend_accounts.is_empty(), Permission::AccountsManage),
            (sessions.is_some(), Permission::SessionsRevoke),
            (needs_address, Permission::AuditUnseal),
        ] {
            if is_asked {
                caller.require(permission)?;
            }
        }
        let plan = ContainmentPlan {
            lockdown,
            accounts: body.suspend_accounts.into_iter().map(AccountId).collect(),
            api_keys: body.revoke_api_keys.into_iter().map(ApiKeyId).collect(),
            sessions,
            keys: Vec::new(),
            reason,
            own: caller.permissions,
        };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done = app.contain(&context, IncidentId(incident_id.0), &plan, std::future::ready(Ok(()))).await?;
        app.enforced_with(done, |ContainmentResult { measures }, enforcement| Containment {
            measures: measures.into_iter().map(ContainmentMeasure::of).collect(),
            enforcement,
        })
        .await
    }
}

impl ContainmentMeasure {
    fn of(result: MeasureResult) -> Self {
        let MeasureResult { kind, count, refused, more, position, enforced_on, down } = result;
        let refused = refused.into_iter().map(|RefusedTarget { id, code }| RefusedTargetResource { id, code });
        let measure = kind.as_str().to_owned();
        Self { measure, count, refused: refused.collect(), more, position, enforced_on, down }
    }
}
