//! The caller's own account: profile, password, second factor, sessions, devices and events.

use fulexo_commands::{KnownDevice, PasswordOwner, PasswordReplacement, Profile, RecoveryCodes};
use fulexo_domain::password::Password;
use fulexo_domain::values::{AccountId, CodeInput, DisplayName, SessionId};
use fulexo_node::answer::{CommandResponse, NoContent, QueryResponse, about_the_new_password, behind, query_failed};
use fulexo_node::caller::{Bearer, EnrolmentCaller, PasswordChangeCaller, Step, app, context};
use fulexo_node::http::{JsonBody, Problem};
use fulexo_node::timestamp::Timestamp;
use fulexo_node::vocabulary::{Orders, Word};
use fulexo_projections::read_models::Projection;
use fulexo_projections::read_models::{accounts, audit, sessions};
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use uuid::Uuid;

use super::audit::{AuditEvent, AuditPage};
use super::input::{Input, Limit, PageQuery, cursor_of, read_id, read_position};
use super::sessions::with_origins;
use super::tag::Tag;

pub struct Me;

/// Your account.
#[derive(Object)]
struct MyAccount {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
    roles: Vec<String>,
    permissions: Vec<String>,
    session_id: Uuid,
    registered_at: Timestamp,
    password_changed_at: Timestamp,
    last_login_at: Option<Timestamp>,
    /// `true` if the owner has confirmed the e-mail address.
    email_verified: bool,
    second_factor: MySecondFactor,
}

/// A change of an account's profile.
#[derive(Object)]
#[oai(deny_unknown_fields)]
pub struct ProfileRequest {
    /// The display name, 1 to 100 characters. `null` or no value removes it.
    pub display_name: Option<String>,
}

/// The profile of an account.
#[derive(Object)]
#[oai(rename = "Profile")]
pub struct ProfileResource {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
}

impl ProfileResource {
    pub fn of(account: AccountId, profile: &Profile) -> Self {
        Self {
            account_id: account.0,
            email: profile.email.as_str().to_owned(),
            display_name: profile.display_name.as_ref().map(|name| name.as_str().to_owned()),
        }
    }
}

/// The state of your second factor.
#[derive(Object)]
struct MySecondFactor {
    /// `true` if a login requires a code.
    enabled: bool,
    /// `true` if a role of the account requires a second factor.
    required: bool,
    /// The number of unused recovery codes.
    recovery_codes: u32,
}

/// A started enrolment of a second factor.
#[derive(Object)]
struct TotpEnrolment {
    /// The TOTP seed in base32 (RFC 4648), for manual entry.
    secret: String,
    /// The seed as an `otpauth` URI, for authenticator apps.
    otpauth_uri: String,
    /// The URI as a QR code: an SVG document.
    qr_svg: String,
}

/// The confirmation of an enrolment.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct TotpConfirmationRequest {
    /// The six-digit code of the authenticator app. Spaces and dashes are ignored; digits of any script are accepted.
    code: String,
}

/// A set of recovery codes.
#[derive(Object)]
struct RecoveryCodeSet {
    /// The ten recovery codes. Each replaces a code of the authenticator app once. They are shown only in this response.
    recovery_codes: Vec<String>,
}

/// A change of your password.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordChangeRequest {
    current_password: String,
    new_password: String,
}

/// One of your sessions.
#[derive(Object)]
struct MySession {
    session_id: Uuid,
    /// `true` if this is the session of the access token.
    current: bool,
    started_at: Timestamp,
    /// The time of the last refresh, or of the start if there was no refresh. Other calls do not change it.
    last_seen_at: Timestamp,
    /// The IP address of the last refresh.
    last_seen_ip: Option<String>,
    /// The `User-Agent` of the last refresh.
    last_seen_user_agent: Option<String>,
    /// The time at which the session expires if it is not refreshed.
    idle_expires_at: Timestamp,
    /// The time at which the session expires in any case.
    expires_at: Timestamp,
    /// The authentication methods of the session (RFC 8176).
    methods: Vec<String>,
    /// The IP address of the login.
    ip: Option<String>,
    /// The `User-Agent` of the login.
    user_agent: Option<String>,
}

/// A page of your sessions.
#[derive(Object)]
struct MySessionPage {
    items: Vec<MySession>,
    next_cursor: Option<String>,
}

/// One of your known devices.
#[derive(Object)]
struct MyDevice {
    device_id: Uuid,
    /// `true` if the session of the access token started on this device.
    current: bool,
    first_used_at: Timestamp,
    last_used_at: Timestamp,
    /// The time at which the device is forgotten in any case.
    expires_at: Timestamp,
    /// The IP address of the last login.
    ip: Option<String>,
    /// The `User-Agent` of the last login.
    user_agent: Option<String>,
}

/// Your known devices.
#[derive(Object)]
struct MyDeviceList {
    /// The devices, at most ten, the most recently used first.
    items: Vec<MyDevice>,
}

/// The result of a revocation of several sessions.
#[derive(Object)]
pub struct RevokedSessions {
    /// The number of revoked sessions.
    revoked: u64,
}

#[OpenApi(prefix_path = "/v1/me", tag = "Tag::Me")]
impl Me {
    /// Get your account
    ///
    /// Returns your profile, your roles and their permissions in this session, and the state of your second factor. The
    /// response includes the effects of your last login.
    #[oai(path = "/", method = "get", operation_id = "get_me")]
    async fn me(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<MyAccount>, Problem> {
        let (app, caller) = (app(request)?, caller.0);
        let view = app.caught_up_for(&caller, Projection::Accounts, min_position.0).await?;
        let account = accounts::get(&app.pool, caller.account).await.map_err(query_failed)?;
        // A token is issued only to an account.
        let account = account.ok_or_else(|| behind(Projection::Accounts, caller.position()))?;
        let profile = app.commands.profile(caller.account).await?.ok_or_else(Problem::not_found)?;
        let required_for = &app.commands.policy().second_factor.required_for;
        Ok(view.of(MyAccount {
            account_id: account.account_id,
            email: profile.email.as_str().to_owned(),
            display_name: profile.display_name.as_ref().map(|name: &DisplayName| name.as_str().to_owned()),
            roles: caller.roles().iter().map(ToString::to_string).collect(),
            permissions: caller.permissions.iter().map(|permission| permission.as_str().to_owned()).collect(),
            session_id: caller.session.0,
            registered_at: account.registered_at.into(),
            password_changed_at: account.password_changed_at.into(),
            last_login_at: account.last_login_at.map(Timestamp),
            email_verified: account.email_verified,
            second_factor: MySecondFactor {
                enabled: account.second_factor,
                required: caller.roles().iter().any(|role| required_for.contains(*role)),
                recovery_codes: account.recovery_codes.unsigned_abs(),
            },
        }))
    }

    /// Change your display name
    ///
    /// Replaces the display name; `null` removes it. Returns the profile. A request that repeats the current name records no
    /// event.
    #[oai(path = "/", method = "patch", operation_id = "change_me")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<ProfileRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<ProfileResource>, Problem> {
        let caller = caller.0;
        let body = body.read()?;
        let mut input = Input::default();
        let name = input.parse_optional("/display_name", body.display_name.as_deref().map(DisplayName::parse));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let done = commands.change_profile(&context, caller.permissions, caller.account, name).await?;
        Ok(CommandResponse::of(done, |profile| ProfileResource::of(caller.account, &profile)))
    }

    /// Change your password
    ///
    /// Needs the current password and an elevated session. Revokes every other session.
    ///
    /// A wrong current password counts as a failed login from this device.
    #[oai(path = "/password", method = "post", operation_id = "change_my_password")]
    async fn change_password(
        &self,
        request: &Request,
        caller: PasswordChangeCaller,
        body: JsonBody<PasswordChangeRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let caller = caller.0;
        caller.require_elevated()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let PasswordChangeRequest { current_password, new_password } = body.read()?;
        let passwords =
            PasswordReplacement { current: Password::new(current_password), new: Password::new(new_password) };
        let owner = match caller {
            Step::LoggedIn(caller) => PasswordOwner::Session(caller.account, caller.session),
            Step::PendingLogin(pending_login) => PasswordOwner::PendingLogin(pending_login),
        };
        let changed = app(request)?.commands.change_password(&context, owner, passwords).await;
        Ok(changed.map_err(about_the_new_password)?.into())
    }

    /// Start the enrolment of a second factor
    ///
    /// Needs an elevated session. Returns a new TOTP seed. The seed takes effect when you confirm it with a code; until then
    /// a second factor that you already have stays in force.
    #[oai(path = "/second-factor/totp", method = "post", operation_id = "enrol_totp")]
    async fn start_totp(
        &self,
        request: &Request,
        caller: EnrolmentCaller,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<TotpEnrolment>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let done = app(request)?.commands.start_enrolment(&context, caller.0.account()).await?;
        let qr_svg = qr_svg(&done.value.otpauth_uri)?;
        Ok(CommandResponse::of(done, |enrolment| TotpEnrolment {
            secret: enrolment.secret.to_string(),
            otpauth_uri: enrolment.otpauth_uri.to_string(),
            qr_svg,
        }))
    }

    /// Confirm the enrolment of a second factor
    ///
    /// Needs a code of the new seed and an elevated session. Every login requires a code from then on. Returns the recovery
    /// codes, which are not shown again.
    #[oai(path = "/second-factor/totp/confirm", method = "post", operation_id = "confirm_totp")]
    async fn confirm_totp(
        &self,
        request: &Request,
        caller: EnrolmentCaller,
        body: JsonBody<TotpConfirmationRequest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RecoveryCodeSet>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let (account, session) = (caller.0.account(), caller.0.session());
        let code = CodeInput::new(&body.read()?.code);
        let done = commands.confirm_enrolment(&context, account, session, &code).await?;
        Ok(CommandResponse::of(done, RecoveryCodeSet::of))
    }

    /// Remove your second factor
    ///
    /// Needs an elevated session. Removes the TOTP seed and the recovery codes.
    ///
    /// Answers 409 `second_factor_required` if one of your roles requires a second factor. Enrol another one to replace it.
    #[oai(path = "/second-factor/totp", method = "delete", operation_id = "remove_totp")]
    async fn disable_totp(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        Ok(app(request)?.commands.disable_second_factor(&context, caller.0.account).await?.into())
    }

    /// Issue new recovery codes
    ///
    /// Needs a second factor and an elevated session. Invalidates the previous codes. Returns the new codes, which are not
    /// shown again.
    #[oai(path = "/recovery-codes", method = "post", operation_id = "issue_recovery_codes")]
    async fn new_recovery_codes(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RecoveryCodeSet>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let done = app(request)?.commands.issue_recovery_codes(&context, caller.0.account).await?;
        Ok(CommandResponse::of(done, RecoveryCodeSet::of))
    }

    /// List your active sessions
    ///
    /// Returns your sessions by time of start, each with the origin of its login and of its last refresh.
    #[oai(path = "/sessions", method = "get", operation_id = "list_my_sessions")]
    async fn sessions(
        &self,
        request: &Request,
        caller: Bearer,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<MySessionPage>, Problem> {
        let (app, caller) = (app(request)?, caller.0);
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let paging = wanted.paging(read_id)?;
        let view = app.caught_up_for(&caller, Projection::Sessions, min_position.0).await?;
        let filter = sessions::SessionFilter { account: Some(caller.account), live: Some(true) };
        let page = with_origins(app, &filter, &paging, None).await?;
        let items = page.items.into_iter().map(|(session, [began, last_seen])| MySession {
            current: session.session_id == caller.session.0,
            session_id: session.session_id,
            started_at: session.started_at.into(),
            last_seen_at: session.last_seen_at.into(),
            idle_expires_at: session.idle_expires_at.into(),
            expires_at: session.expires_at.into(),
            ip: began.ip,
            user_agent: began.user_agent,
            last_seen_ip: last_seen.ip,
            last_seen_user_agent: last_seen.user_agent,
            methods: session.methods.to_vec(),
        });
        let next_cursor = page.next.map(|key| cursor_of(paging.order, key));
        Ok(view.of(MySessionPage { items: items.collect(), next_cursor }))
    }

    /// Revoke one of your sessions
    ///
    /// Ends the session. Its tokens are refused from then on. Answers 404 if the session has ended or belongs to another
    /// account.
    #[oai(path = "/sessions/:session_id", method = "delete", operation_id = "revoke_my_session")]
    async fn end_session(
        &self,
        request: &Request,
        caller: Bearer,
        session_id: Path<Uuid>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let session = SessionId(session_id.0);
        Ok(app(request)?.commands.end_own_session(&context, caller.0.account, session).await?.into())
    }

    /// Revoke your other sessions
    ///
    /// Ends every session of your account except the one of the access token. Returns the number of revoked sessions.
    #[oai(path = "/sessions/revoke-others", method = "post", operation_id = "revoke_my_other_sessions")]
    async fn end_others(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<CommandResponse<RevokedSessions>, Problem> {
        let caller = caller.0;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let done = commands.end_other_sessions(&context, caller.account, caller.session).await?;
        Ok(CommandResponse::of(done, RevokedSessions::of))
    }

    /// List your known devices
    ///
    /// Returns the devices that have logged in and are still known. Failed logins from a known device are counted
    /// separately, and a login from it sends no notice. A change of the password or the second factor, a reset or a
    /// suspension makes the service forget all of them. Reads the current state, never an older one.
    #[oai(path = "/devices", method = "get", operation_id = "list_my_devices")]
    async fn devices(&self, request: &Request, caller: Bearer) -> Result<Json<MyDeviceList>, Problem> {
        let caller = caller.0;
        let context = context(request, caller.actor(), None)?;
        let devices = app(request)?.commands.known_devices(&context, caller.account, caller.session).await?;
        Ok(Json(MyDeviceList { items: devices.into_iter().map(MyDevice::of).collect() }))
    }

    /// Forget one of your devices
    ///
    /// Invalidates the `device_token` of the device. Its sessions continue.
    #[oai(path = "/devices/:device_id", method = "delete", operation_id = "forget_my_device")]
    async fn forget_device(
        &self,
        request: &Request,
        caller: Bearer,
        device_id: Path<Uuid>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        Ok(app(request)?.commands.forget_device(&context, caller.0.account, device_id.0).await?.into())
    }

    /// List the events of your account
    ///
    /// Returns the events of the audit trail whose subject is your account, oldest first unless `order` is `desc`.
    #[oai(path = "/events", method = "get", operation_id = "list_my_events")]
    async fn events(
        &self,
        request: &Request,
        caller: Bearer,
        /// The `next_cursor` of the previous page.
        cursor: Query<Option<String>>,
        /// The maximum number of items, 1 to 200. The default is 50.
        limit: Query<Option<Limit>>,
        /// The direction: `asc`, oldest first, or `desc`. The default is `asc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<QueryResponse<AuditPage>, Problem> {
        let app = app(request)?;
        let wanted = PageQuery { limit: limit.0, order: order.0, cursor: cursor.0 };
        let paging = wanted.paging(read_position)?;
        let view = app.caught_up_for(&caller.0, Projection::Audit, min_position.0).await?;
        let filter = audit::AuditFilter { subject: Some(caller.0.account.0), ..audit::AuditFilter::default() };
        let page = audit::list(&app.pool, &filter, &paging).await.map_err(query_failed)?;
        let items = page.items.iter().map(AuditEvent::read).collect::<Result<_, _>>()?;
        let next_cursor = page.next.map(|key| cursor_of(paging.order, key));
        Ok(view.of(AuditPage { items, next_cursor, as_of: None }))
    }
}

impl MyDevice {
    fn of(known: KnownDevice) -> Self {
        let KnownDevice { device, current, first_used_at, last_used_at, expires_at, ip, user_agent } = known;
        Self {
            device_id: device,
            current,
            first_used_at: first_used_at.into(),
            last_used_at: last_used_at.into(),
            expires_at: expires_at.into(),
            ip,
            user_agent,
        }
    }
}

impl RevokedSessions {
    /// Creates the result from the number of sessions.
    pub const fn of(revoked: usize) -> Self {
        Self { revoked: revoked as u64 }
    }
}

impl RecoveryCodeSet {
    fn of(codes: RecoveryCodes) -> Self {
        Self { recovery_codes: codes.0.iter().map(|code| code.to_string()).collect() }
    }
}

fn qr_svg(text: &str) -> Result<String, Problem> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(Problem::internal)?;
    Ok(code.render::<svg::Color<'_>>().min_dimensions(240, 240).build())
}
