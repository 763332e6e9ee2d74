//! The caller's own account: who they are, their password, their devices, what happened to them.

use fulexo_commands::{KnownDevice, PasswordOwner, PasswordReplacement, Profile, RecoveryCodes};
use fulexo_domain::password::Password;
use fulexo_domain::values::{AccountId, DisplayName, SessionId, TypedCode};
use fulexo_node::answer::{NoContent, Recorded, Viewed, about_the_new_password, behind, query_failed};
use fulexo_node::caller::{Bearer, ChangingPassword, Enrolling, Step, app, context};
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
use super::input::{Input, Limit, Wanted, cursor_of, read_id, read_position};
use super::sessions::with_origins;
use super::tag::Tag;

pub struct Me;

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
    /// Whether mail to the address reached its owner.
    email_verified: bool,
    second_factor: MySecondFactor,
}

/// How somebody is called.
#[derive(Object)]
#[oai(deny_unknown_fields)]
pub struct ProfileChange {
    /// 1 to 100 characters; missing or null: no name.
    pub display_name: Option<String>,
}

/// Who an account is now.
#[derive(Object)]
pub struct ChangedProfile {
    account_id: Uuid,
    email: String,
    display_name: Option<String>,
}

impl ChangedProfile {
    pub fn of(account: AccountId, profile: &Profile) -> Self {
        Self {
            account_id: account.0,
            email: profile.email.as_str().to_owned(),
            display_name: profile.display_name.as_ref().map(|name| name.as_str().to_owned()),
        }
    }
}

#[derive(Object)]
struct MySecondFactor {
    /// Whether a login asks for one.
    enabled: bool,
    /// Whether a role of the account requires one.
    required: bool,
    /// Recovery codes left.
    recovery_codes: u32,
}

#[derive(Object)]
struct TotpEnrolment {
    /// The seed in base32 (RFC 4648), for typing in.
    secret: String,
    /// The same as an `otpauth` URI, for authenticator apps.
    otpauth_uri: String,
    /// The URI as a QR code, an SVG document.
    qr_svg: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct TotpConfirmation {
    /// Six digits of the authenticator app; spaces, dashes and the digits of any script are read.
    code: String,
}

#[derive(Object)]
struct RecoveryCodeSet {
    /// Each good for one login in place of a code; shown this once.
    recovery_codes: Vec<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordChange {
    current_password: String,
    new_password: String,
}

#[derive(Object)]
struct MySession {
    session_id: Uuid,
    /// Whether it is the one that asks.
    current: bool,
    started_at: Timestamp,
    /// When its tokens were last refreshed; at first, when it started. What is done with an access token is not noted.
    last_seen_at: Timestamp,
    /// From where that was.
    last_seen_ip: Option<String>,
    /// With what.
    last_seen_user_agent: Option<String>,
    /// Unused until then, it ends.
    idle_expires_at: Timestamp,
    /// It ends then in any case.
    expires_at: Timestamp,
    /// How its owner logged in (RFC 8176).
    methods: Vec<String>,
    /// From where it was started.
    ip: Option<String>,
    /// With what.
    user_agent: Option<String>,
}

#[derive(Object)]
struct MySessionPage {
    items: Vec<MySession>,
    next_cursor: Option<String>,
}

#[derive(Object)]
struct MyDevice {
    device_id: Uuid,
    /// Whether the session that asks began on it.
    current: bool,
    first_used_at: Timestamp,
    last_used_at: Timestamp,
    /// It is forgotten then in any case.
    expires_at: Timestamp,
    /// From where it last logged in.
    ip: Option<String>,
    /// With what.
    user_agent: Option<String>,
}

#[derive(Object)]
struct MyDevices {
    /// Ten at most; those used last first.
    items: Vec<MyDevice>,
}

/// What a sign-out of many came to.
#[derive(Object)]
pub struct RevokedSessions {
    /// How many sessions were ended.
    revoked: u64,
}

#[OpenApi(prefix_path = "/v1/me", tag = "Tag::Me")]
impl Me {
    /// Get the caller's account
    ///
    /// With its roles, what they allow in this session, and its second factor. Sees the caller's login in any case.
    #[oai(path = "/", method = "get", operation_id = "get_me")]
    async fn me(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<MyAccount>, Problem> {
        let (app, caller) = (app(request)?, caller.0);
        let view = app.caught_up_for(&caller, Projection::Accounts, min_position.0).await?;
        let account = accounts::get(&app.pool, caller.account).await.map_err(query_failed)?;
        // Whoever holds a token has an account.
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

    /// Change the caller's display name
    ///
    /// `null` takes the name away. The name that is there already changes and records nothing.
    #[oai(path = "/", method = "patch", operation_id = "change_me")]
    async fn change(
        &self,
        request: &Request,
        caller: Bearer,
        body: JsonBody<ProfileChange>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<ChangedProfile>, Problem> {
        let caller = caller.0;
        let body = body.read()?;
        let mut input = Input::default();
        let name = input.parse_optional("/display_name", body.display_name.as_deref().map(DisplayName::parse));
        input.check()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let done = commands.change_profile(&context, caller.permissions, caller.account, name).await?;
        Ok(Recorded::of(done, |profile| ChangedProfile::of(caller.account, &profile)))
    }

    /// Change the caller's password
    ///
    /// Every other session ends.
    /// A wrong current password counts as a failed login from this device.
    #[oai(path = "/password", method = "post", operation_id = "change_my_password")]
    async fn change_password(
        &self,
        request: &Request,
        caller: ChangingPassword,
        body: JsonBody<PasswordChange>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<NoContent, Problem> {
        let caller = caller.0;
        caller.require_elevated()?;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let PasswordChange { current_password, new_password } = body.read()?;
        let passwords =
            PasswordReplacement { current: Password::new(current_password), new: Password::new(new_password) };
        let owner = match caller {
            Step::LoggedIn(caller) => PasswordOwner::Session(caller.account, caller.session),
            Step::PendingLogin(pending_login) => PasswordOwner::PendingLogin(pending_login),
        };
        let changed = app(request)?.commands.change_password(&context, owner, passwords).await;
        Ok(changed.map_err(about_the_new_password)?.into())
    }

    /// Start to enrol a second factor
    ///
    /// The first one, or another in its place.
    /// It counts once a code of it was confirmed; until then one in use stays. Needs a login within the last ten minutes.
    #[oai(path = "/second-factor/totp", method = "post", operation_id = "enrol_totp")]
    async fn start_totp(
        &self,
        request: &Request,
        caller: Enrolling,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<TotpEnrolment>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let done = app(request)?.commands.start_enrolment(&context, caller.0.account()).await?;
        let qr_svg = qr_svg(&done.value.otpauth_uri)?;
        Ok(Recorded::of(done, |enrolment| TotpEnrolment {
            secret: enrolment.secret.to_string(),
            otpauth_uri: enrolment.otpauth_uri.to_string(),
            qr_svg,
        }))
    }

    /// Confirm a second factor
    ///
    /// By a code of it; every login asks for one from then on.
    /// The recovery codes are shown this once. Needs a login within the last ten minutes.
    #[oai(path = "/second-factor/totp/confirm", method = "post", operation_id = "confirm_totp")]
    async fn confirm_totp(
        &self,
        request: &Request,
        caller: Enrolling,
        body: JsonBody<TotpConfirmation>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RecoveryCodeSet>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let (account, session) = (caller.0.account(), caller.0.session());
        let code = TypedCode::new(&body.read()?.code);
        let done = commands.confirm_enrolment(&context, account, session, &code).await?;
        Ok(Recorded::of(done, RecoveryCodeSet::of))
    }

    /// Remove the caller's second factor
    ///
    /// Refused when a role of the account requires one: enrol another one in its place. Needs a login within the last
    /// ten minutes.
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
    /// The old ones are void from then on.
    /// Shown this once. Needs a login within the last ten minutes.
    #[oai(path = "/recovery-codes", method = "post", operation_id = "issue_recovery_codes")]
    async fn new_recovery_codes(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RecoveryCodeSet>, Problem> {
        caller.0.require_elevated()?;
        let context = context(request, caller.0.actor(), idempotency_key.0)?;
        let done = app(request)?.commands.issue_recovery_codes(&context, caller.0.account).await?;
        Ok(Recorded::of(done, RecoveryCodeSet::of))
    }

    /// List the caller's live sessions
    ///
    /// In the order of their start; where each began and was last refreshed, and which one asks.
    #[oai(path = "/sessions", method = "get", operation_id = "list_my_sessions")]
    async fn sessions(
        &self,
        request: &Request,
        caller: Bearer,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<MySessionPage>, Problem> {
        let (app, caller) = (app(request)?, caller.0);
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
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

    /// Revoke a session of the caller
    ///
    /// Its tokens are refused from then on. 404 for one that has ended, or is somebody else's.
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

    /// Revoke all other sessions of the caller
    ///
    /// Answers with how many there were. The session that asks goes on.
    #[oai(path = "/sessions/revoke-others", method = "post", operation_id = "revoke_my_other_sessions")]
    async fn end_others(
        &self,
        request: &Request,
        caller: Bearer,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<Recorded<RevokedSessions>, Problem> {
        let caller = caller.0;
        let context = context(request, caller.actor(), idempotency_key.0)?;
        let commands = &app(request)?.commands;
        let done = commands.end_other_sessions(&context, caller.account, caller.session).await?;
        Ok(Recorded::of(done, RevokedSessions::of))
    }

    /// List the caller's known devices
    ///
    /// Those that have logged in.
    /// Guesses on one are counted by themselves, and a login from it is no news. A change of password or second factor, a
    /// reset or a suspension ends all of them. Never behind the log.
    #[oai(path = "/devices", method = "get", operation_id = "list_my_devices")]
    async fn devices(&self, request: &Request, caller: Bearer) -> Result<Json<MyDevices>, Problem> {
        let caller = caller.0;
        let context = context(request, caller.actor(), None)?;
        let devices = app(request)?.commands.known_devices(&context, caller.account, caller.session).await?;
        Ok(Json(MyDevices { items: devices.into_iter().map(MyDevice::of).collect() }))
    }

    /// Forget a device of the caller
    ///
    /// Its `device_token` is worth nothing from now on; its sessions go on.
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

    /// List the events of the caller's account
    ///
    /// The events of the audit trail that are about it, oldest first.
    #[oai(path = "/events", method = "get", operation_id = "list_my_events")]
    async fn events(
        &self,
        request: &Request,
        caller: Bearer,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Most items, 1 to 200; 50 if not given.
        limit: Query<Option<Limit>>,
        /// `asc`, oldest first, if not given, or `desc`.
        order: Query<Option<Word<Orders>>>,
        #[oai(name = "Log-Min-Position")] min_position: Header<Option<u64>>,
    ) -> Result<Viewed<AuditPage>, Problem> {
        let app = app(request)?;
        let wanted = Wanted { limit: limit.0, order: order.0, cursor: cursor.0 };
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
    /// So many.
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
