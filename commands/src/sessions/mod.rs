//! Sessions: their tokens, refresh, and ends.

pub mod access_token;
pub mod ends;
pub mod refresh;
pub mod refresh_token;
pub mod sign_out;
pub mod tokens;
