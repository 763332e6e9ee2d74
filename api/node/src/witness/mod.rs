//! A witness of transparency logs (C2SP tlog-witness): what it cosigns, and its HTTP service.

mod cosigner;
mod service;

pub use self::cosigner::{Refusal, Witness, WitnessError, WitnessKeys, WitnessKeysError, witnessed_logs};
pub use self::service::WitnessService;
