//! The kinds of refusal: status, code, title and the usual sentence of each.

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

    /// Code, title, and the detail where the constructor is given none.
    fn words(self) -> (Code, &'static str, &'static str) {
        match self {
            Self::InvalidInput => (Code::INVALID_INPUT, "Invalid input", "The input is not valid."),
            Self::InvalidCredentials => {
                (Code::INVALID_CREDENTIALS, "Invalid credentials", "These credentials do not sign in.")
            }
            Self::Unauthenticated => (Code::UNAUTHENTICATED, "Authentication required", "The call needs credentials."),
            Self::InvalidToken => (Code::INVALID_TOKEN, "Invalid token", "The token is not valid, or not any more."),
            Self::StepUpRequired => {
                (Code::STEP_UP_REQUIRED, "Step-up required", "Confirm the password first: POST /v1/auth/step-up.")
            }
            Self::PermissionDenied => (Code::PERMISSION_DENIED, "Permission denied", "The caller may not do this."),
            Self::NotFound => (Code::NOT_FOUND, "Not found", "There is nothing here."),
            Self::MethodNotAllowed => {
                (Code::METHOD_NOT_ALLOWED, "Method not allowed", "This path does not answer to this method.")
            }
            Self::NotAcceptable => {
                (Code::NOT_ACCEPTABLE, "Not acceptable", "No representation fits the Accept header.")
            }
            Self::SlowRequest => (Code::SLOW_REQUEST, "Request too slow", "The body did not arrive in time."),
            Self::Conflict => (Code::CONFLICT, "Conflict", "The present state forbids this."),
            Self::BodyTooLarge => (Code::BODY_TOO_LARGE, "Body too large", "The body is too large."),
            Self::UnsupportedMediaType => (
                Code::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported media type",
                "The operation does not read this Content-Type.",
            ),
            Self::RateLimited => (Code::RATE_LIMITED, "Too many requests", "Too many calls; wait and try again."),
            Self::Internal => {
                (Code::INTERNAL, "Internal error", "Something failed here. Quote the instance to the operator.")
            }
            Self::NotImplemented => (Code::NOT_IMPLEMENTED, "Not implemented", "Nothing here answers to this method."),
            Self::LockedDown => (Code::LOCKED_DOWN, "Locked down", "An incident is being contained; come back later."),
            Self::Overloaded => (Code::OVERLOADED, "Overloaded", "Too busy; nothing was done. Try again."),
            Self::Unavailable => (Code::UNAVAILABLE, "Unavailable", "Something the call needs is down. Try again."),
            Self::Timeout => (
                Code::TIMEOUT,
                "Timeout",
                "No answer in time; the call may have taken effect. Retry with the same Idempotency-Key.",
            ),
        }
    }
}
