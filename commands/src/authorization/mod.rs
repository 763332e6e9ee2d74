//! Authorization: roles, API keys, the policy, lockdowns, incidents.

pub mod api_keys;
pub mod incidents;
pub mod lockdown;
pub mod policy;
pub mod roles;
