//! Authentication: passwords, second factors, step-ups, and the counting of attempts.

pub mod attempt_queues;
pub mod attempts;
pub mod challenge;
pub mod codes;
pub mod credentials;
pub mod devices;
pub mod login;
pub mod password_hash;
pub mod second_factor;
pub mod standing;
pub mod step_up;
