//! The erasure of accounts: asked for by the owner, carried out at once by an administrator, and its receipt for everybody who
//! knows the account's id.

use std::time::Duration;

use fulexo_commands::ErasureStatus;
use fulexo_domain::erasure::{CopyHolder, DestroyedData};
use fulexo_domain::permission::Permission;
use fulexo_domain::values::AccountId;
use fulexo_node::answer::{CommandResponse, EnforcementResource, NoContent, query_failed};
use fulexo_node::caller::{Bearer, BearerOrKey, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::state::App;
use fulexo_node::timestamp::Timestamp;
use fulexo_projections::read_models::{Projection, accounts};
use poem::Request;
use poem_openapi::param::{Header, Path};
use poem_openapi::payload::{Json, PlainText};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::audit_log::proof_of;
use super::input::{ReasonRequest, act};
use super::tag::Tag;

pub struct Erasures;

/// The time that an administrator's call waits for the end of the erasure.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval at which it looks.
const LOOK: Duration = Duration::from_millis(100);

/// The state of an erasure: `none` if nobody asked for it, `scheduled` until it is due, `destroying` once the key is destroyed,
/// `completed` once everything that it sealed is deleted.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum ErasureState {
    /// Nobody asked for it, or it was withdrawn.
    None,
    /// It is due later, and can be withdrawn.
    Scheduled,
    /// The data key is destroyed; what it sealed is being deleted.
    Destroying,
    /// Everything is deleted.
    Completed,
}

/// The erasure of an account.
#[derive(Object)]
#[oai(rename = "Erasure")]
struct ErasureResource {
    account_id: Uuid,
    /// The state of the erasure.
    state: ErasureState,
    /// The time from which on the account is erased. Until then its owner can withdraw the erasure.
    due_at: Option<Timestamp>,
    /// The time at which the data key was destroyed. From then on nothing that is sealed for the account can be opened.
    erased_at: Option<Timestamp>,
    /// The time at which everything was deleted.
    completed_at: Option<Timestamp>,
    /// The numbers of what is destroyed so far. Present once the data key is destroyed.
    #[oai(skip_serializing_if_is_none)]
    destroyed: Option<DestroyedResource>,
    /// The id of the wrapping key under which the data key was stored. The erasure is final, also for backups and old segments of
    /// the write-ahead log, once that key is destroyed.
    wrapping_key: Option<String>,
    /// The places in which something survives.
    survives: Vec<SurvivalResource>,
    /// Those who took copies of events that may have those of the account: the last 100, newest first. Nothing sealed is in a
    /// copy. The event `account.erased` tells whoever goes on to read.
    copies: Vec<CopyHolderResource>,
    /// The number of all who took copies.
    copy_holders: u64,
}

/// Somebody who took copies of events.
#[derive(Object)]
#[oai(rename = "CopyHolder")]
struct CopyHolderResource {
    /// The kind of the holder: `account` or `api_key`.
    kind: String,
    /// The id of the account or API key.
    id: Uuid,
    /// The number of copies.
    count: u64,
    /// The time at which the last one began.
    last_at: Timestamp,
}

/// The numbers of rows that an erasure destroyed.
#[derive(Object)]
#[oai(rename = "DestroyedData")]
struct DestroyedResource {
    /// The sealed personal data of events.
    sealed: u64,
    /// The claims to e-mail addresses, which are free again.
    addresses: u64,
    /// The verifiers of passwords, also of earlier ones, and the seeds of second factors.
    verifiers: u64,
    /// The recovery codes.
    recovery_codes: u64,
    /// The roots of refresh tokens.
    refresh_roots: u64,
    /// The known devices.
    devices: u64,
    /// The counters of attempts.
    attempts: u64,
    /// The mails, waiting or sent.
    mails: u64,
    /// The tokens in mailed links.
    mail_tokens: u64,
    /// The remembered outcomes of idempotent calls.
    outcomes: u64,
}

/// Something that survives an erasure.
#[derive(Object)]
#[oai(rename = "Survival")]
struct SurvivalResource {
    /// The place, and what is in it.
    what: String,
    /// The event that ends it. `null` if it stays.
    until: Option<String>,
}

/// An erased account, and where its erasure is enforced.
#[derive(Object)]
struct ErasedAccount {
    /// The erasure.
    erasure: ErasureResource,
    #[oai(flatten)]
    enforced: EnforcementResource,
}

/// The receipt of an erasure.
#[derive(ApiResponse)]
enum ReceiptResponse {
    /// The proof (C2SP tlog-proof), with the event `account.erasure_completed` in it.
    #[oai(status = 200, content_type = "text/plain; charset=utf-8")]
    Receipt(PlainText<String>),
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Erasure")]
impl Erasures {
    /// Ask for the erasure of your account
    ///
    /// Needs an elevated session. The account is erased once the time to withdraw is over, 7 days by default: its data key is
    /// destroyed and everything that it sealed is deleted, its address is released, and its sessions end. Until then the account
    /// works as before. The owner is told by mail.
    ///
    /// A repeated call changes nothing and returns the same time. Answers 409 `last_admin` if no other account could grant roles.
    #[oai(path = "/me/erasure", method = "post", operation_id = "start_erasure")]
    async fn start(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ErasureResource>, Problem> {
        let caller = caller.0;
        caller.require_elevated()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.start_erasure(&context, caller.account).await?;
        let covered = app.checkpoint_over(&done).await;
        let body = |due_at| ErasureResource::scheduled(caller.account, Some(due_at));
        Ok(CommandResponse::of(done, body).with_checkpoint(covered))
    }

    /// Get the erasure of your account
    ///
    /// Returns the time from which on your account is erased, if you have asked for that.
    #[oai(path = "/me/erasure", method = "get", operation_id = "get_my_erasure")]
    async fn mine(&self, request: &Request, caller: Bearer) -> Result<Json<ErasureResource>, Problem> {
        let (app, account) = (app(request)?, caller.0.account);
        Ok(Json(ErasureResource::scheduled(account, app.commands.erasure_due(account).await?)))
    }

    /// Withdraw the erasure of your account
    ///
    /// The account stays as it is. Answers 409 `erasure_not_started` if you have not asked for it.
    #[oai(path = "/me/erasure", method = "delete", operation_id = "withdraw_erasure")]
    async fn withdraw(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let app = app(request)?;
        let done = app.commands.withdraw_erasure(&context, caller.0.account).await?;
        let covered = app.checkpoint_over(&done).await;
        Ok(NoContent::from(done).with_checkpoint(covered))
    }

    /// Erase an account
    ///
    /// Needs the permission `accounts.erase`, every permission of the account, and an elevated session. Destroys the account's
    /// data key, ends its sessions and roles, and releases its address, at once and for good. Returns when every node enforces
    /// that and everything that the key sealed is deleted, or after 5 seconds; `GET /v1/erasures/{account_id}` tells the rest. The
    /// reason is sealed under your key.
    ///
    /// A repeated call changes nothing. Answers 409 `last_admin` if no other account could grant roles.
    #[oai(path = "/accounts/:account_id/erasure", method = "post", operation_id = "erase_account")]
    async fn erase(
        &self,
        request: &Request,
        caller: Bearer,
        account_id: Path<Uuid>,
        body: JsonBody<ReasonRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ErasedAccount>, Problem> {
        let (context, reason) = act(request, &caller.0, Permission::AccountsErase, body, idempotency_key.0)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        let done = app.commands.erase(&context, caller.0.permissions, account, reason).await?;
        let erasure = completed(app, account).await?;
        app.enforced_with(done, |(), enforced| ErasedAccount { erasure, enforced }).await
    }

    /// Get the erasure of an account
    ///
    /// Needs the permission `accounts.read`. Returns when the account is erased, or what was destroyed.
    #[oai(path = "/accounts/:account_id/erasure", method = "get", operation_id = "get_account_erasure")]
    async fn of_account(
        &self,
        request: &Request,
        caller: BearerOrKey,
        account_id: Path<Uuid>,
    ) -> Result<Json<ErasureResource>, Problem> {
        caller.0.require(Permission::AccountsRead)?;
        let (app, account) = (app(request)?, AccountId(account_id.0));
        if let Some(status) = app.commands.erasure_status(account).await? {
            return Ok(Json(ErasureResource::of(account, status)));
        }
        app.caught_up(Projection::Accounts, None).await?;
        accounts::get(&app.pool, account).await.map_err(query_failed)?.ok_or_else(Problem::not_found)?;
        Ok(Json(ErasureResource::scheduled(account, app.commands.erasure_due(account).await?)))
    }

    /// Get an erasure by its account
    ///
    /// Returns what an erasure has destroyed and where something survives, to everybody who knows the id of the erased account:
    /// its owner has no session any more. Answers 404 for every other account.
    #[oai(path = "/erasures/:account_id", method = "get", operation_id = "get_erasure")]
    async fn of_anybody(&self, request: &Request, account_id: Path<Uuid>) -> Result<Json<ErasureResource>, Problem> {
        let (app, account) = (app(request)?, AccountId(account_id.0));
        let _few = app.read_in_public().await?;
        let status = app.commands.erasure_status(account).await?.ok_or_else(Problem::not_found)?;
        Ok(Json(ErasureResource::of(account, status)))
    }

    /// Get the receipt of an erasure
    ///
    /// Returns the event that records the end of an erasure, with the proof that a checkpoint covers it, under the signature of
    /// the log's key (C2SP tlog-proof). `fulexo audit check` verifies it offline. Answers 404 until the erasure is completed and
    /// a checkpoint covers it.
    #[oai(path = "/erasures/:account_id/receipt", method = "get", operation_id = "get_erasure_receipt")]
    async fn receipt(&self, request: &Request, account_id: Path<Uuid>) -> Result<ReceiptResponse, Problem> {
        let app = app(request)?;
        let _few = app.read_in_public().await?;
        let receipt = app.commands.erasure_receipt(AccountId(account_id.0)).await?;
        let (position, leaf) = receipt.ok_or_else(Problem::not_found)?;
        let proof = proof_of(app, position, Some(leaf)).await?;
        Ok(ReceiptResponse::Receipt(PlainText(proof.to_string())))
    }
}

/// The state of an erasure once it is completed, or after some time.
async fn completed(app: &App, account: AccountId) -> Result<ErasureResource, Problem> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = app.commands.erasure_status(account).await?.ok_or_else(Problem::not_found)?;
        if status.completed_at.is_some() || Instant::now() > until {
            return Ok(ErasureResource::of(account, status));
        }
        sleep(LOOK).await;
    }
}

impl ErasureResource {
    fn scheduled(account: AccountId, due_at: Option<chrono::DateTime<chrono::Utc>>) -> Self {
        let state = if due_at.is_some() { ErasureState::Scheduled } else { ErasureState::None };
        Self {
            account_id: account.0,
            state,
            due_at: due_at.map(Timestamp),
            erased_at: None,
            completed_at: None,
            destroyed: None,
            wrapping_key: None,
            survives: Vec::new(),
            copies: Vec::new(),
            copy_holders: 0,
        }
    }

    fn of(account: AccountId, status: ErasureStatus) -> Self {
        let is_completed = status.completed_at.is_some();
        let state = if is_completed { ErasureState::Completed } else { ErasureState::Destroying };
        let survives = survivals(&status);
        Self {
            account_id: account.0,
            state,
            due_at: None,
            erased_at: Some(status.erased_at.into()),
            completed_at: status.completed_at.map(Timestamp),
            destroyed: Some(status.destroyed.into()),
            wrapping_key: status.wrapping_key,
            survives,
            copy_holders: status.copies.count,
            copies: status.copies.latest.into_iter().map(CopyHolderResource::from).collect(),
        }
    }
}

/// The places in which something survives. They are the same for every erasure, but for the names of keys.
fn survivals(status: &ErasureStatus) -> Vec<SurvivalResource> {
    let survival = |what: &str, until: Option<String>| SurvivalResource { what: what.to_owned(), until };
    let mut survives = vec![survival(
        "The log: events under the account's id, without anything sealed. An id is a number that was drawn at random.",
        None,
    )];
    if let Some(key) = &status.wrapping_key {
        survives.push(survival(
            "Backups, standbys and old segments of the write-ahead log: what was sealed, and the data key in wrapped form.",
            Some(format!("the wrapping key `{key}` is destroyed")),
        ));
    }
    if status.log_switched == Some(false) {
        survives.push(survival(
            "The current segment of the write-ahead log, which the service may not switch: the same.",
            Some("the server recycles it".to_owned()),
        ));
    }
    survives.push(survival(
        "Exports, streams and copies of the log: the same events. `copies` names those who took them.",
        None,
    ));
    survives.push(survival(
        "Disclosures: what those who may open sealed fields were shown. The log names them, by `audit.unsealed`.",
        None,
    ));
    survives
}

impl From<CopyHolder> for CopyHolderResource {
    fn from(holder: CopyHolder) -> Self {
        let CopyHolder { kind, id, copies, last_at } = holder;
        Self { kind: kind.as_str().to_owned(), id, count: copies, last_at: last_at.into() }
    }
}

impl From<DestroyedData> for DestroyedResource {
    fn from(destroyed: DestroyedData) -> Self {
        let DestroyedData {
            sealed,
            addresses,
            verifiers,
            recovery_codes,
            refresh_roots,
            devices,
            attempts,
            mails,
            mail_tokens,
            outcomes,
        } = destroyed;
        Self {
            sealed,
            addresses,
            verifiers,
            recovery_codes,
            refresh_roots,
            devices,
            attempts,
            mails,
            mail_tokens,
            outcomes,
        }
    }
}
