//! Logins, from the outside: what is refused and how, what is counted, what a token is worth, and what is left of a
//! person in the database.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod lockout;
mod origin;
mod parallel;
mod passwords;
mod privacy;
mod refresh;
mod roles;
mod step_up;
mod tokens;
mod typed;
mod uniform;

use fulexo_tests::{Answer, Client, leaves, log_size, superuser};
use serde_json::json;

/// Tries to log in.
async fn log_in(client: &Client, email: &str, password: &str) -> Answer {
    client.post("/v1/auth/login", json!({"email": email, "password": password})).await
}
