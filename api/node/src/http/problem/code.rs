//! Every code of a problem, with its meaning and its remedy: the contract with programs, the vocabulary of the document, and
//! the content of the page that `type` leads to.

use crate::vocabulary::Vocabulary;

/// The stable code of a problem, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The code as it is sent.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The meaning, in a sentence.
    pub meaning: &'static str,
    /// The remedy, in one or more sentences.
    pub remedy: &'static str,
}

/// The path of the page that explains every code. Each code is a fragment of it.
pub const PAGE: &str = "/problems";

macro_rules! codes {
    ($($constant:ident: $name:literal, $status:literal, $meaning:literal, $remedy:literal;)*) => {
        impl Code {
            $(#[doc = concat!("`", $name, "`")]
            pub const $constant: Self =
                Self { name: $name, status: $status, meaning: $meaning, remedy: $remedy };)*

            /// Every code, in the order of status and name.
            pub const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

codes! {
    INVALID_HOST: "invalid_host", 400, "The request does not name exactly one valid host.",
        "Send one Host header, or :authority in HTTP/2.";
    INVALID_INPUT: "invalid_input", 400,
        "A member of the body, a parameter or a header is missing, unknown, repeated or malformed.",
        "Read errors. Each entry has a pointer to the fault and says what the value must be.";
    INVALID_CLIENT: "invalid_client", 401, "The id and secret in HTTP Basic are not those of an active API key.",
        "Send the id as the user name and the secret as the password, both form-encoded. The key must not be expired or revoked.";
    INVALID_CREDENTIALS: "invalid_credentials", 401,
        "The login is refused. An unknown address, a wrong password or code, and a locked or suspended account are answered alike.",
        "Check the credentials. After several failed attempts wait until the lock lifts, or reset the password.";
    INVALID_TOKEN: "invalid_token", 401, "The token is malformed, expired, revoked or from another issuer.",
        "Refresh the token, or log in again.";
    UNAUTHENTICATED: "unauthenticated", 401, "The operation needs credentials, and the request has none.",
        "Send an access token in Authorization: Bearer.";
    CODE_REQUIRED: "code_required", 403, "The account has a second factor, and the operation needs its code.",
        "Send a current code or a recovery code in code.";
    CROSS_ORIGIN_DENIED: "cross_origin_denied", 403, "A page of another origin sent the request, and this origin is not allowed.",
        "Ask the operator to add the origin to FULEXO_CORS_ORIGINS. Use only the methods and headers that are allowed.";
    CSRF_REJECTED: "csrf_rejected", 403, "A request by cookie has no valid CSRF token, or comes from a page of another origin.",
        "Send the csrf_token of the login in X-CSRF-Token.";
    GRANT_EXCEEDS_OWN: "grant_exceeds_own", 403, "The change involves permissions that you do not hold.",
        "Ask an administrator who holds every permission involved.";
    MAIL_NOT_CONFIGURED: "mail_not_configured", 403, "The service does not send e-mail.",
        "Ask the operator to set SMTP_URL or FULEXO_MAIL_DIR.";
    PERMISSION_DENIED: "permission_denied", 403, "You lack the permission that the call needs.",
        "Read permission. Ask for a role that has it, or use another account or API key.";
    REGISTRATION_CLOSED: "registration_closed", 403, "Only administrators create accounts.",
        "Ask an administrator for an account.";
    STEP_UP_REQUIRED: "step_up_required", 403,
        "The call needs an elevated session, or the session accepts no calls until a step-up.",
        "Confirm the password or a code with POST /v1/auth/step-up. Then repeat the call.";
    NOT_FOUND: "not_found", 404, "The path or the resource does not exist, or you cannot see it.",
        "Check the path and the id.";
    METHOD_NOT_ALLOWED: "method_not_allowed", 405, "The path does not support the method.",
        "Use a method that the Allow header lists.";
    NOT_ACCEPTABLE: "not_acceptable", 406, "The Accept header excludes every representation.",
        "Accept application/json.";
    SLOW_REQUEST: "slow_request", 408, "The body did not arrive in time.",
        "Send the request again.";
    ALREADY_CREATED: "already_created", 409, "The API key already exists.", "List API keys to see it.";
    ALREADY_REGISTERED: "already_registered", 409, "The account is already registered.", "Log in.";
    ALREADY_SUSPENDED: "already_suspended", 409, "The account is already suspended.", "No action is needed.";
    BUILT_IN_ROLE: "built_in_role", 409, "A built-in role cannot be changed or retired.", "Define a role with another name.";
    CONFLICT: "conflict", 409, "The current state does not allow the change.", "Read detail, then the current state.";
    CONTENDED: "contended", 409, "Concurrent changes prevented this one.", "Repeat the call.";
    EMAIL_TAKEN: "email_taken", 409, "Another account has this e-mail address.",
        "Log in to it, reset its password, or use another address.";
    IDEMPOTENCY_KEY_REUSED: "idempotency_key_reused", 409, "The Idempotency-Key was used for another request.",
        "Use a new key for each request.";
    LAST_ADMIN: "last_admin", 409, "The account is the last active one that can grant roles.",
        "Grant such a role to another account first.";
    LOCKDOWN_ACTIVE: "lockdown_active", 409, "A lockdown with this scope is already in force.", "No action is needed.";
    INCIDENT_PHASE: "incident_phase", 409, "The incident is in another phase than the call needs.",
        "Get the incident. Its phases follow each other: identified, contained, eradicated, recovered, closed.";
    INCIDENT_FULL: "incident_full", 409, "The incident has as much evidence, or as many notes, as one may have.",
        "Open another incident.";
    NO_LOCKDOWN: "no_lockdown", 409, "No lockdown is in force.", "No action is needed.";
    ACCOUNT_ERASED: "account_erased", 409, "The account was erased.", "No action is possible: an erased account stays erased.";
    ERASURE_NOT_STARTED: "erasure_not_started", 409, "Nobody has asked for the erasure of the account.", "No action is needed.";
    NOTHING_SEALED: "nothing_sealed", 409, "Nothing is sealed alongside the event, or it was destroyed.", "No action is needed.";
    NO_SECOND_FACTOR: "no_second_factor", 409, "The account has no second factor.", "Enrol a second factor first.";
    NOT_ENROLLING: "not_enrolling", 409, "The account has not started the enrolment of a second factor.",
        "Start with POST /v1/me/second-factor/totp.";
    NOT_SUSPENDED: "not_suspended", 409, "The account is not suspended.", "No action is needed.";
    OUTCOME_EXPIRED: "outcome_expired", 409,
        "The request was already carried out, and its tokens or secrets are not shown again.",
        "Use a new Idempotency-Key to repeat the call.";
    POLICY_REPLACED: "policy_replaced", 409, "The policy was changed after the version that you sent.",
        "Read the policy again and repeat your change.";
    ROLE_HELD: "role_held", 409, "The account already has this role.", "No action is needed.";
    ROLE_IN_USE: "role_in_use", 409, "Accounts have this role.", "Revoke it from them first. List them with GET /v1/grants?role=ROLE.";
    ROLE_NOT_HELD: "role_not_held", 409, "The account does not have this role.", "No action is needed.";
    ROLE_RETIRED: "role_retired", 409, "A role with this name was retired.", "Use another name.";
    SECOND_FACTOR_REQUIRED: "second_factor_required", 409, "A role of the account requires a second factor.",
        "Enrol another second factor to replace this one, or have the role revoked.";
    TOO_MANY: "too_many", 409, "The maximum number of roles or API keys is reached.", "Retire or revoke some first.";
    BODY_TOO_LARGE: "body_too_large", 413, "The body exceeds the size limit.", "Send a smaller body.";
    UNSUPPORTED_ENCODING: "unsupported_encoding", 415, "The body has a Content-Encoding, and the service accepts none.",
        "Send the body without Content-Encoding.";
    UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type", 415, "The operation does not accept this Content-Type.",
        "Use the Content-Type that detail names.";
    RATE_LIMITED: "rate_limited", 429, "A quota of your address or account is exhausted.",
        "Wait as long as Retry-After says. quota names the quota.";
    TOO_MANY_STREAMS: "too_many_streams", 429, "The account or API key has as many streams as one may have.",
        "Close a stream first. A stream that was cut off counts until the service notices.";
    INTERNAL: "internal", 500, "The service failed.", "Give instance to the operator, who finds the cause in the log.";
    NOT_IMPLEMENTED: "not_implemented", 501, "The service does not support the method or the transfer coding.",
        "Use a standard HTTP method. Send the body whole or chunked.";
    BEHIND: "behind", 503, "A read model has not applied the requested position yet.", "Repeat the query after Retry-After.";
    ENFORCEMENT_UNKNOWN: "enforcement_unknown", 503, "The change is recorded, but it is not known which nodes enforce it.",
        "Repeat the call with the same Idempotency-Key.";
    LOCKED_DOWN: "locked_down", 503, "A lockdown is in force: only incident responders have access.",
        "Try again after the lockdown is lifted.";
    LOG_REPLACED: "log_replaced", 503, "The log was replaced while this node ran, for example by a restore from a backup.",
        "Restart the node.";
    OVERLOADED: "overloaded", 503, "The service is too busy and did nothing.", "Repeat the call after Retry-After.";
    TIMEOUT: "timeout", 503, "The response was not ready in time, and the call may have taken effect.",
        "Repeat the call with the same Idempotency-Key.";
    UNAVAILABLE: "unavailable", 503, "A dependency of the service is down.", "Repeat the call after Retry-After.";
}

/// The vocabulary of codes.
pub struct ProblemCodes;

impl Vocabulary for ProblemCodes {
    const NAME: &'static str = "ProblemCode";
    const DESCRIPTION: &'static str = "The stable code of a problem, for programs. `GET /problems` explains each.";

    fn words() -> Vec<&'static str> {
        Code::ALL.iter().map(|code| code.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_none_is_there_twice() {
        let mut sorted: Vec<_> = Code::ALL.iter().map(|code| (code.status, code.name)).collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), Code::ALL.len());
        for code in Code::ALL {
            for text in [code.meaning, code.remedy] {
                assert!(text.ends_with('.') && text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
            }
        }
    }
}
