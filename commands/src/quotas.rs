//! Quotas that commands spend, as whoever keeps them sees it.

use std::net::IpAddr;

use fulexo_domain::rate_limit::{Route, Spent};
use fulexo_domain::values::AccountId;

/// Holds everybody to quotas of what is known within a command alone.
pub trait CommandQuotas: Send + Sync {
    /// Takes so much from the quota of an address or an account, or nothing.
    ///
    /// # Errors
    /// [`Spent`], which was counted.
    fn spend(&self, route: Route, payer: QuotaHolder, count: u32) -> Result<(), Spent>;
}

/// Whose quota is spent. Personal data: no `Debug`.
#[derive(Clone, Copy)]
pub enum QuotaHolder {
    /// That of an address.
    Address(IpAddr),
    /// That of an account.
    Account(AccountId),
}
