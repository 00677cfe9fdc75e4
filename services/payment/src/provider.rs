//! What payment needs of whoever moves the money.

pub(crate) mod books;
mod simulated;

use std::error::Error;
use std::fmt::Debug;

use futures::future::BoxFuture;
use mesh::{Accounts, Id, Money};

pub use books::{ProviderEntry, ProviderLog};
pub(crate) use simulated::Simulated;

use crate::domain::{Charge, Payments};

/// Whoever moves the money.
///
/// A charge and its refund have one key, the payment's name. Both are idempotent by it: the same call again gets the
/// same answer and moves no money. A call that is dropped, because its deadline has passed, may have been carried out.
pub(crate) trait PaymentProvider: Debug + Send + Sync + 'static {
    /// Charges the customer, once. After a refund under this key it is declined.
    fn charge<'a>(
        &'a self,
        key: Id<Payments>,
        customer: Id<Accounts>,
        amount: &'a Money,
    ) -> BoxFuture<'a, Result<Charge, ProviderError>>;

    /// Gives back so much of the charge under this key. Where there is no such charge, there never will be: one that
    /// arrives late is declined.
    fn refund<'a>(
        &'a self,
        key: Id<Payments>,
        amount: &'a Money,
    ) -> BoxFuture<'a, Result<(), ProviderError>>;
}

/// Why the provider gave no answer. Either way it may have done what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// It could not be reached, or broke off.
    #[error("the payment provider cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// It said nothing for too long.
    #[error("the payment provider does not answer")]
    Silent,
}
