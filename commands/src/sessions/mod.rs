//! Sessions: their tokens, how they are refreshed, and how they end.

pub mod access_token;
pub mod ends;
pub mod refresh;
pub mod refresh_token;
pub mod sign_out;
pub mod tokens;
