//! Every code that a refusal can have, with what it means and what to do: the contract with programs, the vocabulary in the
//! document, and the page that `type` leads to.

use crate::vocabulary::Vocabulary;

/// A refusal's name, for programs. Codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// As it is sent.
    pub name: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// What it says, in a sentence.
    pub meaning: &'static str,
    /// What whoever gets it does.
    pub remedy: &'static str,
}

/// The path of the page that explains all of them; a code is its fragment.
pub const PAGE: &str = "/problems";

macro_rules! codes {
    ($($constant:ident: $name:literal, $status:literal, $meaning:literal, $remedy:literal;)*) => {
        impl Code {
            $(#[doc = concat!("`", $name, "`")]
            pub const $constant: Self =
                Self { name: $name, status: $status, meaning: $meaning, remedy: $remedy };)*

            /// Every code, by status and name.
            pub const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

codes! {
    INVALID_HOST: "invalid_host", 400, "The request names no host, several, or one that cannot be.",
        "Send exactly one Host header, or :authority in HTTP/2.";
    INVALID_INPUT: "invalid_input", 400, "A member of the body, a parameter or a header is missing, unknown, repeated or malformed.",
        "Read errors: each entry points to a member at fault and says what it must be.";
    INVALID_CLIENT: "invalid_client", 401, "The API key's id and secret of HTTP Basic do not match a key in use.",
        "Send the id as user name and the secret as password, both form-encoded, of a key that has not expired or been revoked.";
    INVALID_CREDENTIALS: "invalid_credentials", 401,
        "The address, the password, the code or the token does not sign in. A locked, suspended or unknown account is answered the same.",
        "Check what was typed; after several failures wait until the lock lifts, or reset the password.";
    INVALID_TOKEN: "invalid_token", 401, "The token is malformed, expired, revoked, or of another issuer.",
        "Refresh the session, or log in again.";
    UNAUTHENTICATED: "unauthenticated", 401, "The operation needs credentials, and the request has none.",
        "Send Authorization: Bearer with an access token.";
    CODE_REQUIRED: "code_required", 403, "The account has a second factor, and this operation needs a code of it.",
        "Send a current code, or a recovery code, as code.";
    CROSS_ORIGIN_DENIED: "cross_origin_denied", 403, "The page behind the request is of an origin that may not call this service.",
        "Have the operator add the origin to FULEXO_CORS_ORIGINS, with the method and headers that you use.";
    CSRF_REJECTED: "csrf_rejected", 403, "The request came by cookie without the session's token, or from another origin's page.",
        "Send the csrf_token of the login as X-CSRF-Token.";
    GRANT_EXCEEDS_OWN: "grant_exceeds_own", 403, "The change would give, or touch, permissions that the caller does not hold.",
        "Ask somebody who holds every permission involved.";
    MAIL_NOT_CONFIGURED: "mail_not_configured", 403, "The service sends no mail.",
        "Have the operator set SMTP_URL or FULEXO_MAIL_DIR.";
    PERMISSION_DENIED: "permission_denied", 403, "The caller is known and lacks a permission.",
        "Read permission: have a role granted that allows it, or use another account or key.";
    REGISTRATION_CLOSED: "registration_closed", 403, "Strangers may not make accounts here.",
        "Ask an administrator for an account.";
    STEP_UP_REQUIRED: "step_up_required", 403, "The operation is sensitive and the last proof of identity too old, or the session waits for one.",
        "Confirm the password or a code: POST /v1/auth/step-up. Then repeat the call.";
    NOT_FOUND: "not_found", 404, "There is nothing at this path, or nothing that the caller may know of.",
        "Check the path and the id.";
    METHOD_NOT_ALLOWED: "method_not_allowed", 405, "The path does not answer to this method.",
        "Use one of those that the Allow header lists.";
    NOT_ACCEPTABLE: "not_acceptable", 406, "No representation fits the Accept header.",
        "Accept application/json.";
    SLOW_REQUEST: "slow_request", 408, "The body did not arrive in time.",
        "Send it again, on a better connection.";
    ALREADY_CREATED: "already_created", 409, "The API key was made before.", "List API keys.";
    ALREADY_REGISTERED: "already_registered", 409, "The account was registered before.", "Log in.";
    ALREADY_SUSPENDED: "already_suspended", 409, "The account is suspended.", "Nothing is left to do.";
    BUILT_IN_ROLE: "built_in_role", 409, "A built-in role cannot be changed or retired.", "Define a role of another name.";
    CONFLICT: "conflict", 409, "The present state forbids the change.", "Read detail, and the state again.";
    CONTENDED: "contended", 409, "Others kept changing the same thing.", "Repeat the call.";
    EMAIL_TAKEN: "email_taken", 409, "Another account has this address.", "Log in, reset its password, or use another address.";
    IDEMPOTENCY_KEY_REUSED: "idempotency_key_reused", 409, "The Idempotency-Key was used for another request.",
        "Use a new key for each new request.";
    LAST_ADMIN: "last_admin", 409, "It is the last account in use that may grant roles.", "Grant another account such a role first.";
    LOCKDOWN_ACTIVE: "lockdown_active", 409, "A lockdown of this scope is in force.", "Nothing is left to do.";
    NO_LOCKDOWN: "no_lockdown", 409, "There is no lockdown.", "Nothing is left to do.";
    NO_SECOND_FACTOR: "no_second_factor", 409, "The account has no second factor.", "Enrol one first.";
    NOT_ENROLLING: "not_enrolling", 409, "No enrolment of a second factor was started.", "POST /v1/me/second-factor/totp first.";
    NOT_SUSPENDED: "not_suspended", 409, "The account is not suspended.", "Nothing is left to do.";
    OUTCOME_EXPIRED: "outcome_expired", 409, "The request was carried out before, and its tokens or secrets are not shown again.",
        "Send a new Idempotency-Key to do it once more.";
    POLICY_REPLACED: "policy_replaced", 409, "The policy was changed since you read it.", "Read it again and repeat your change.";
    ROLE_HELD: "role_held", 409, "The account holds this role.", "Nothing is left to do.";
    ROLE_IN_USE: "role_in_use", 409, "Accounts hold this role.", "Revoke it from them first: GET /v1/grants?role= lists them.";
    ROLE_NOT_HELD: "role_not_held", 409, "The account does not hold this role.", "Nothing is left to do.";
    ROLE_RETIRED: "role_retired", 409, "A role of this name was retired.", "Take another name.";
    SECOND_FACTOR_REQUIRED: "second_factor_required", 409, "A role of the account requires a second factor.",
        "Enrol another one in its place, or have the role revoked.";
    TOO_MANY: "too_many", 409, "There are as many of these as there may be.", "Remove some first.";
    BODY_TOO_LARGE: "body_too_large", 413, "The body is larger than the service reads.", "Send less.";
    UNSUPPORTED_ENCODING: "unsupported_encoding", 415, "The body has a Content-Encoding, which is not read.", "Send it as it is.";
    UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type", 415, "The operation does not read this Content-Type.",
        "Send the one that detail names.";
    RATE_LIMITED: "rate_limited", 429, "A quota of the address or the account is spent.",
        "Wait as long as Retry-After says; quota names which one.";
    INTERNAL: "internal", 500, "Something failed in the service.", "Quote instance to the operator, whose log has the cause.";
    NOT_IMPLEMENTED: "not_implemented", 501, "The service does not know this method or coding.", "Use a method of HTTP.";
    BEHIND: "behind", 503, "A read model has not seen the position that was asked for.", "Repeat the query in a moment.";
    ENFORCEMENT_UNKNOWN: "enforcement_unknown", 503, "The change is recorded; which nodes enforce it could not be asked.",
        "Repeat the call with the same Idempotency-Key to learn it.";
    LOCKED_DOWN: "locked_down", 503, "An incident is being contained: nobody but those who respond to it gets in.",
        "Come back later.";
    LOG_REPLACED: "log_replaced", 503, "The log was replaced under this node, by a backup for one.",
        "Restart the node, which then reads the log that there is.";
    OVERLOADED: "overloaded", 503, "The service is too busy; nothing was done.", "Repeat the call after Retry-After.";
    TIMEOUT: "timeout", 503, "No answer in time; the call may have taken effect.",
        "Repeat it with the same Idempotency-Key.";
    UNAVAILABLE: "unavailable", 503, "Something that the call needs is down.", "Repeat the call after Retry-After.";
}

/// Codes, as a vocabulary.
pub struct ProblemCodes;

impl Vocabulary for ProblemCodes {
    const NAME: &'static str = "ProblemCode";
    const DESCRIPTION: &'static str = "The name of a refusal, for programs; stable. GET /problems explains each.";

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
