//! Authorization: roles, API keys, the policy, lockdowns.

pub mod api_keys;
pub mod lockdown;
pub mod policy;
pub mod roles;
