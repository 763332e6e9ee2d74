//! An error and its causes as one line.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

/// An error and its causes, as they are written into the log. See [`chain`].
#[derive(Clone, Copy)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

/// Displays an error, then each cause after a colon. A cause is left out if the text before it ends in it, since libraries
/// often write their cause into their own text.
#[must_use]
pub const fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        f.write_str(&text)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                write!(f, ": {next}")?;
                text = next;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<dyn Error>>);

    impl Display for Caused {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref()
        }
    }

    fn caused(text: &'static str, cause: impl Error + 'static) -> Caused {
        Caused(text, Some(Box::new(cause)))
    }

    #[test]
    fn each_cause_follows_after_a_colon() {
        let error = caused("the log cannot be read", caused("the database refused", Caused("no such table", None)));
        assert_eq!(chain(&error).to_string(), "the log cannot be read: the database refused: no such table");
        assert_eq!(chain(&Caused("alone", None)).to_string(), "alone");
    }

    #[test]
    fn a_cause_that_its_error_has_written_out_is_not_repeated() {
        let cause = caused("refused: no such table", Caused("no such table", None));
        assert_eq!(chain(&caused("the log", cause)).to_string(), "the log: refused: no such table");
        let database = sqlx::Error::Io(io::Error::other("the server is away"));
        let text = database.to_string();
        assert_eq!(chain(&database).to_string(), text, "sqlx writes its causes out");
        assert!(text.ends_with("the server is away"), "{text}");
    }

    #[test]
    fn causes_of_a_cause_that_is_left_out_are_kept() {
        let error = caused("outer: inner", caused("inner", Caused("root", None)));
        assert_eq!(chain(&error).to_string(), "outer: inner: root");
    }
}
