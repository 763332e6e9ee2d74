//! The kinds of problems: the status, code, title and default detail of each.

use poem::http::StatusCode;

use super::code::Code;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    InvalidInput,
    InvalidCredentials,
    Unauthenticated,
    InvalidToken,
    StepUpRequired,
    PermissionDenied,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    SlowRequest,
    Conflict,
    BodyTooLarge,
    UnsupportedMediaType,
    RateLimited,
    Internal,
    NotImplemented,
    LockedDown,
    Overloaded,
    Unavailable,
    Timeout,
}

impl Kind {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::InvalidInput => StatusCode::BAD_REQUEST,
            Self::InvalidCredentials | Self::Unauthenticated | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::StepUpRequired | Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::SlowRequest => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::LockedDown | Self::Overloaded | Self::Unavailable | Self::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn code(self) -> Code {
        self.words().0
    }

    pub(super) fn title(self) -> &'static str {
        self.words().1
    }

    pub(super) fn detail(self) -> &'static str {
        self.words().2
    }

    /// Returns the code, the title and the default detail.
    fn words(self) -> (Code, &'static str, &'static str) {
        match self {
            Self::InvalidInput => {
                (Code::INVALID_INPUT, "Invalid input", "The input is not valid. See `errors` for each fault.")
            }
            // One text for every refused login: it must not tell an unknown account from a locked one or a wrong password.
            Self::InvalidCredentials => (
                Code::INVALID_CREDENTIALS,
                "Invalid credentials",
                "The credentials are refused. Check them. After several failed attempts, wait before you try again.",
            ),
            Self::Unauthenticated => (
                Code::UNAUTHENTICATED,
                "Authentication required",
                "The request has no credentials. Send an access token in `Authorization: Bearer`.",
            ),
            Self::InvalidToken => (
                Code::INVALID_TOKEN,
                "Invalid token",
                "The token is malformed, expired or revoked. Refresh it, or log in again.",
            ),
            Self::StepUpRequired => (
                Code::STEP_UP_REQUIRED,
                "Step-up required",
                "This call needs an elevated session. Call POST /v1/auth/step-up, then repeat the call.",
            ),
            Self::PermissionDenied => {
                (Code::PERMISSION_DENIED, "Permission denied", "You do not have permission for this call.")
            }
            Self::NotFound => {
                (Code::NOT_FOUND, "Not found", "The path or the resource does not exist. Check the path and the id.")
            }
            Self::MethodNotAllowed => (
                Code::METHOD_NOT_ALLOWED,
                "Method not allowed",
                "This path does not support this method. Use a method that the Allow header lists.",
            ),
            Self::NotAcceptable => (
                Code::NOT_ACCEPTABLE,
                "Not acceptable",
                "The Accept header excludes every representation. Accept application/json.",
            ),
            Self::SlowRequest => {
                (Code::SLOW_REQUEST, "Request too slow", "The body did not arrive in time. Send the request again.")
            }
            Self::Conflict => {
                (Code::CONFLICT, "Conflict", "The current state does not allow this change. Read the state again.")
            }
            Self::BodyTooLarge => {
                (Code::BODY_TOO_LARGE, "Body too large", "The body exceeds the size limit. Send a smaller body.")
            }
            Self::UnsupportedMediaType => (
                Code::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "The operation does not accept this Content-Type.",
            ),
            Self::RateLimited => (
                Code::RATE_LIMITED,
                "Too many requests",
                "You have sent too many requests. Wait as long as Retry-After says.",
            ),
            Self::Internal => (
                Code::INTERNAL,
                "Internal error",
                "The service failed. If the error persists, give `instance` to the operator.",
            ),
            Self::NotImplemented => {
                (Code::NOT_IMPLEMENTED, "Not implemented", "The service does not support this method.")
            }
            Self::LockedDown => {
                (Code::LOCKED_DOWN, "Lockdown in force", "A lockdown is in force. Try again after it is lifted.")
            }
            Self::Overloaded => (
                Code::OVERLOADED,
                "Overloaded",
                "The service is too busy and did nothing. Repeat the call after Retry-After.",
            ),
            Self::Unavailable => (
                Code::UNAVAILABLE,
                "Unavailable",
                "A dependency of the service is down. Repeat the call after Retry-After.",
            ),
            Self::Timeout => (
                Code::TIMEOUT,
                "Timeout",
                "The response was not ready in time, and the call may have taken effect. Repeat it with the same \
                 Idempotency-Key.",
            ),
        }
    }
}
