//! Judges errors of PostgreSQL: by SQLSTATE (PostgreSQL's documentation, appendix A), by the name of a constraint, or by the
//! kind of the driver's error. It never looks at messages: they are translated, and change.

use sqlx::Error;

/// The meaning of a failed statement for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseFailure<'a> {
    /// The pool gave no connection in time, and nothing was sent. Try again.
    NoConnection,
    /// The server cannot be reached, is starting or stopping, lacks resources, or has become a standby; or it closed the
    /// connection. A commit under way may have succeeded. Try again later.
    Unavailable,
    /// The statement took too long, or an operator cancelled it. Its transaction is rolled back.
    Cancelled,
    /// Another transaction was in the way, and PostgreSQL rolled this one back. Repeat the transaction.
    Conflict,
    /// Another transaction kept a lock for longer than `lock_timeout`. Repeat the transaction.
    LockTimeout,
    /// The constraint of this name does not hold. The caller knows what it means, or has a defect.
    Constraint(&'a str),
    /// The role lacks a privilege. An operator must grant it, or migrate.
    InsufficientPrivilege,
    /// There is no such table. An operator must migrate.
    UndefinedTable,
    /// The server refused the statement in another way, or a value does not fit its type. It would be refused again: a
    /// defect.
    Refused,
    /// The driver was misused, or is in a state that it does not expect: a defect.
    Driver,
}

impl<'a> DatabaseFailure<'a> {
    /// Judges an error.
    #[must_use]
    pub fn of(error: &'a Error) -> Self {
        match error {
            Error::PoolTimedOut => Self::NoConnection,
            Error::PoolClosed
            | Error::Io(_)
            | Error::Tls(_)
            | Error::WorkerCrashed
            // A proxy whose server is down closes connections that it has just accepted. The driver reads that as the
            // answer to its TLS request.
            | Error::Protocol(_) => Self::Unavailable,
            Error::Database(error) => match error.constraint() {
                Some(name) => Self::Constraint(name),
                None => error.code().map_or(Self::Refused, |code| Self::of_state(&code)),
            },
            Error::Encode(_) | Error::Decode(_) | Error::ColumnDecode { .. } => Self::Refused,
            _ => Self::Driver,
        }
    }

    fn of_state(sqlstate: &str) -> Self {
        match sqlstate {
            "42501" => Self::InsufficientPrivilege,
            "42P01" => Self::UndefinedTable,
            "55P03" => Self::LockTimeout,
            "57014" => Self::Cancelled,
            // A read-only transaction: the primary has become a standby. A transaction that was idle for too long.
            "25006" | "25P03" => Self::Unavailable,
            _ => match sqlstate.get(..2) {
                // Connection, resources, an operator's intervention.
                Some("08" | "53" | "57") => Self::Unavailable,
                Some("40") => Self::Conflict,
                _ => Self::Refused,
            },
        }
    }

    /// `true` if the same statement may succeed later, without a change of anything but the server.
    #[must_use]
    pub const fn is_unavailable(self) -> bool {
        match self {
            Self::NoConnection | Self::Unavailable | Self::Cancelled => true,
            Self::Conflict
            | Self::LockTimeout
            | Self::Constraint(_)
            | Self::InsufficientPrivilege
            | Self::UndefinedTable
            | Self::Refused
            | Self::Driver => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fmt::{self, Display, Formatter};
    use std::io;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    #[derive(Debug)]
    struct FakeError(Option<&'static str>, Option<&'static str>);

    impl Display for FakeError {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("an answer")
        }
    }

    impl std::error::Error for FakeError {}

    impl DatabaseError for FakeError {
        fn message(&self) -> &str {
            "an answer"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            self.0.map(Cow::Borrowed)
        }

        fn constraint(&self) -> Option<&str> {
            self.1
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn answer(sqlstate: &'static str) -> Error {
        Error::Database(Box::new(FakeError(Some(sqlstate), None)))
    }

    fn states(sqlstates: &[&'static str], expected: DatabaseFailure<'_>) {
        for sqlstate in sqlstates {
            assert_eq!(DatabaseFailure::of(&answer(sqlstate)), expected, "{sqlstate}");
        }
    }

    #[test]
    fn states_of_a_server_that_is_away_are_unavailable() {
        let away = ["08000", "08006", "08P01", "25006", "25P03", "53100", "53300", "57P01", "57P02", "57P03"];
        states(&away, DatabaseFailure::Unavailable);
    }

    #[test]
    fn states_that_callers_treat_in_their_own_way_have_a_name() {
        states(&["57014"], DatabaseFailure::Cancelled);
        states(&["40001", "40P01"], DatabaseFailure::Conflict);
        states(&["55P03"], DatabaseFailure::LockTimeout);
        states(&["42501"], DatabaseFailure::InsufficientPrivilege);
        states(&["42P01"], DatabaseFailure::UndefinedTable);
    }

    #[test]
    fn all_other_states_are_refusals() {
        states(
            &["22001", "22P02", "23000", "25001", "42601", "42703", "55000", "XX000", "", "é"],
            DatabaseFailure::Refused,
        );
        assert_eq!(DatabaseFailure::of(&Error::Database(Box::new(FakeError(None, None)))), DatabaseFailure::Refused);
    }

    #[test]
    fn a_constraint_is_known_by_its_name() {
        let violation = Error::Database(Box::new(FakeError(Some("23514"), Some("head_is_not_ahead"))));
        assert_eq!(DatabaseFailure::of(&violation), DatabaseFailure::Constraint("head_is_not_ahead"));
    }

    #[test]
    fn the_driver_tells_a_lost_connection_from_a_missing_one_and_from_a_defect() {
        let io = || io::Error::from(io::ErrorKind::ConnectionReset);
        for lost in [Error::Io(io()), Error::PoolClosed, Error::WorkerCrashed, Error::Protocol("?".into())] {
            assert_eq!(DatabaseFailure::of(&lost), DatabaseFailure::Unavailable, "{lost}");
        }
        assert_eq!(DatabaseFailure::of(&Error::PoolTimedOut), DatabaseFailure::NoConnection);
        for unfit in [Error::Decode("?".into()), Error::Encode("?".into())] {
            assert_eq!(DatabaseFailure::of(&unfit), DatabaseFailure::Refused, "{unfit}");
        }
        assert_eq!(DatabaseFailure::of(&Error::RowNotFound), DatabaseFailure::Driver);
    }

    #[test]
    fn what_passes_by_itself_is_unavailable_and_nothing_else() {
        use DatabaseFailure::{
            Cancelled, Conflict, Constraint, Driver, InsufficientPrivilege, LockTimeout, NoConnection, Refused,
            Unavailable, UndefinedTable,
        };
        assert!([NoConnection, Unavailable, Cancelled].into_iter().all(DatabaseFailure::is_unavailable));
        let others = [Conflict, LockTimeout, Constraint("a"), InsufficientPrivilege, UndefinedTable, Refused, Driver];
        assert!(!others.into_iter().any(DatabaseFailure::is_unavailable));
    }
}
