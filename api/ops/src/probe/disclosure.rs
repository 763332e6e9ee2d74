//! Signs of the inside of a service in what it answers: traces of the stack, errors of a database, paths of files.

/// Texts that only the inside of a service writes.
const SIGNS: [&str; 22] = [
    "stack backtrace",
    "panicked at",
    "Traceback (most recent call last)",
    "Exception in thread",
    "goroutine ",
    "\tat java.",
    "at Object.<anonymous>",
    "node_modules/",
    "/usr/local/",
    "/usr/src/",
    "/home/",
    "/root/",
    "/var/www/",
    ".cargo/registry",
    "SQLSTATE",
    "syntax error at or near",
    "unterminated quoted string",
    "You have an error in your SQL syntax",
    "ORA-0",
    "sqlx::",
    "PG::",
    "psycopg",
];

/// Returns the first such sign in a text.
#[must_use]
pub fn disclosed(text: &str) -> Option<&'static str> {
    SIGNS.into_iter().find(|sign| text.contains(sign)).or_else(|| has_source_line(text).then_some(".rs:"))
}

/// `true` if a text names a line of a source file, such as `main.rs:12`.
fn has_source_line(text: &str) -> bool {
    let after = text.split(".rs:").skip(1);
    after.into_iter().any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_an_error_of_sql_and_a_line_of_a_source_are_signs() {
        assert_eq!(disclosed("thread 'main' panicked at x"), Some("panicked at"));
        assert_eq!(disclosed("ERROR: syntax error at or near \"'\""), Some("syntax error at or near"));
        assert_eq!(disclosed("in src/main.rs:12"), Some(".rs:"));
        assert_eq!(disclosed(r#"{"code":"not_found","type":"http://a/problems#not_found"}"#), None);
        assert_eq!(disclosed("see main.rs: it"), None);
    }
}
