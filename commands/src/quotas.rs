//! The quotas that a command itself spends, as a trait that the edge implements.

use std::net::IpAddr;

use fulexo_domain::rate_limit::{QuotaExceeded, RouteGroup};
use fulexo_domain::values::AccountId;

/// Quotas on resources whose use only the command knows, such as password hashes.
pub trait CommandQuotas: Send + Sync {
    /// Spends `count` units of the quota of an address or an account. Spends nothing if fewer are left.
    ///
    /// # Errors
    /// [`QuotaExceeded`]; the refusal has already been counted.
    fn spend(&self, route: RouteGroup, payer: QuotaHolder, count: u32) -> Result<(), QuotaExceeded>;
}

/// The holder of a quota. Personal data: no `Debug`.
#[derive(Clone, Copy)]
pub enum QuotaHolder {
    /// A client address.
    Address(IpAddr),
    /// An account.
    Account(AccountId),
}
