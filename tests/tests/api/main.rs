//! The service as its clients see it, over HTTP: one binary, since each takes a while to link and starts servers of its
//! own. Nothing here changes what belongs to the process.

mod administration;
mod api_keys;
mod as_of;
mod browsers;
mod counter;
mod fingerprint;
mod letters;
mod lockdown;
mod login;
mod mail;
mod policy;
mod rate_limits;
mod roles;
mod second_factor;
