//! Addresses of the audit trail: the digests by which the events of an address are found. An address itself is in no URL.

use fulexo_domain::permission::Permission;
use fulexo_domain::values::{Address, Reason};
use fulexo_node::answer::CommandResponse;
use fulexo_node::caller::{Bearer, app, context};
use fulexo_node::http::{JsonBody, Problem};
use poem::Request;
use poem_openapi::param::Header;
use poem_openapi::{Object, OpenApi};

use super::audit_filter::digest_text;
use super::input::Input;
use super::tag::Tag;

pub struct AuditAddresses;

/// An address to search for, and the reason.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AddressSearchRequest {
    /// An IP address or an e-mail address, in any spelling.
    address: String,
    /// The reason, 1 to 500 characters. It is sealed alongside the event.
    reason: String,
}

/// The digest of an address.
#[derive(Object)]
#[oai(rename = "AddressDigest")]
struct AddressDigestResource {
    /// The digest, in base64url, for the filter `address` of `GET /v1/audit/events`.
    digest: String,
    /// The size of a signed checkpoint that covers the record of this search. `null` if none did within 2 seconds, or nothing
    /// signs the log.
    checkpoint_size: Option<u64>,
    /// The size of the newest checkpoint that as many witnesses have cosigned as the policy asks for, at the time of the response.
    /// `null` if no witnesses are asked, or too few have cosigned one.
    anchored_size: Option<u64>,
}

#[OpenApi(prefix_path = "/v1/audit", tag = "Tag::Audit")]
impl AuditAddresses {
    /// Get the digest of an address
    ///
    /// Needs the permission `audit.unseal` and an elevated session. Returns the digest by which `GET /v1/audit/events`, the stream
    /// and the export find the events that have the address sealed alongside them: the same for every spelling of the address, and
    /// whether or not any event has it. Another deployment has another digest. The search is an event itself,
    /// `audit.address_searched`, with the actor, the kind of the address and, sealed, the reason; it is recorded before the digest
    /// is disclosed.
    #[oai(path = "/addresses", method = "post", operation_id = "digest_address")]
    async fn digest(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<AddressSearchRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<AddressDigestResource>, Problem> {
        let caller = &caller.0;
        caller.require(Permission::AuditUnseal)?;
        caller.require_elevated()?;
        let body = body.read()?;
        let mut input = Input::default();
        let address = input.parse("/address", Address::parse(&body.address));
        let reason = input.parse("/reason", Reason::parse(&body.reason));
        let (Some(address), Some(reason)) = (address, reason) else { return Err(input.refused()) };
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.digest_address(&context, &address, reason).await?;
        let checkpoint_size = app.checkpoint_over(&done).await;
        let response = CommandResponse::of(done, |digest| AddressDigestResource {
            digest: digest_text(digest),
            checkpoint_size,
            anchored_size: app.anchored_size(),
        });
        Ok(response.with_checkpoint(checkpoint_size))
    }
}
