//! Who may do what: roles, API keys, the policy, a lockdown.

pub mod api_keys;
pub mod lockdown;
pub mod policy;
pub mod roles;
