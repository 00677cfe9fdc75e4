//! A provider that moves no money, keeps books all the same, and can be as slow and as unreliable as a real one.
//!
//! It stands for somebody else's service: what it does, it does whether or not the caller still waits.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mesh::simulate::{Load, Place};
use mesh::{Accounts, Id, Money, Store, Tx, scope};
use rand::Rng as _;

use super::books::{self, Decided};
use super::{PaymentProvider, ProviderError};
use crate::domain::{Charge, Payments};
use crate::settings::Settings;

/// The simulated provider.
#[derive(Debug)]
pub(crate) struct Simulated {
    books: Store,
    settings: Settings,
    /// It works on so many charges at once; the others queue until whoever asked gives up.
    charges: Load,
    /// Giving back takes as long, and waits for nobody.
    refunds: Load,
}

impl Simulated {
    pub(crate) fn new(books: Store, settings: &Settings) -> Self {
        let charges = Load::new(settings.delay.clone(), settings.concurrency);
        let refunds = Load::new(settings.delay.clone(), None);
        Self { books, settings: settings.clone(), charges, refunds }
    }

    /// Writes into the books, whoever still waits: a provider knows nothing of its caller's deadline.
    async fn decide<T, F>(&self, decide: F) -> Result<Decided<T>, ProviderError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> mesh::Result<Decided<T>> + Clone + Send + 'static,
    {
        scope::without_deadline(self.books.write(decide))
            .await
            .map_err(|error| ProviderError::Unreachable(error.into()))
    }

    /// Takes its time. What it did before, it knows at once.
    async fn ponder<T>(&self, place: Place<'_>, decided: Decided<T>) -> T {
        match decided {
            Decided::Now(answer) => {
                place.take_time().await;
                answer
            }
            Decided::Before(answer) => answer,
        }
    }

    /// Answers, or never does.
    async fn reply<T>(&self, answer: T) -> T {
        if mesh::rng().random_bool(self.settings.lost_reply_share) {
            std::future::pending::<()>().await;
        }
        answer
    }

    fn declines(&self, amount: &Money) -> bool {
        let too_much = self.settings.decline_over.is_some_and(|most| amount.minor_units > most);
        too_much || mesh::rng().random_bool(self.settings.decline_share)
    }
}

impl PaymentProvider for Simulated {
    fn charge<'a>(
        &'a self,
        key: Id<Payments>,
        _: Id<Accounts>,
        amount: &'a Money,
    ) -> BoxFuture<'a, Result<Charge, ProviderError>> {
        async move {
            let place = self.charges.enter().await;
            let decline = self.declines(amount);
            let (key, amount) = (key.to_string(), amount.clone());
            let decided = self.decide(move |tx| books::charge(tx, &key, &amount, decline)).await?;
            let answer = self.ponder(place, decided).await;
            Ok(self.reply(answer).await)
        }
        .boxed()
    }

    fn refund<'a>(
        &'a self,
        key: Id<Payments>,
        amount: &'a Money,
    ) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            let place = self.refunds.enter().await;
            let (key, amount) = (key.to_string(), amount.clone());
            let decided = self.decide(move |tx| books::refund(tx, &key, &amount)).await?;
            self.ponder(place, decided).await;
            self.reply(()).await;
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::time::Duration;

    use mesh::{Context, Wiring};
    use mesh_testing::TestMesh;
    use tokio::time::timeout;

    use super::*;
    use crate::provider::{ProviderEntry, ProviderLog};
    use crate::settings::Delay;

    /// A provider with empty books.
    async fn provider(settings: Settings) -> (TestMesh, Simulated) {
        let (give, take) = std::sync::mpsc::channel();
        let context = Context::new(
            crate::NAME,
            || crate::MIGRATIONS,
            move |kit| {
                give.send(Simulated::new(books::open(kit)?, &settings)).unwrap();
                Ok(Wiring::default())
            },
        )
        .with_store_apart(books::STORE, books::migrations);
        let mesh = TestMesh::start(&[context]).await;
        (mesh, take.recv().unwrap())
    }

    async fn charge(provider: &Simulated, key: Id<Payments>) -> Charge {
        provider.charge(key, Id::new(), &won(50_000)).await.unwrap()
    }

    fn won(minor_units: i64) -> Money {
        Money::new("KRW", minor_units)
    }

    fn a_minute() -> Settings {
        Settings { delay: Delay::millis(60_000..=60_000), ..Settings::default() }
    }

    #[tokio::test]
    async fn a_key_is_charged_once_and_given_back_once() {
        let (mesh, provider) = provider(Settings::default()).await;
        let key = Id::new();
        let first = charge(&provider, key).await;
        assert!(matches!(first, Charge::Approved { .. }));
        assert_eq!(charge(&provider, key).await, first);
        for _ in 0..2 {
            provider.refund(key, &won(30_000)).await.unwrap();
        }
        let entry =
            ProviderEntry { key: key.to_string(), charged: won(50_000), refunded: won(30_000) };
        assert_eq!(
            ProviderLog::read(&mesh.store_apart("payment", "provider")).unwrap().entries,
            [entry]
        );
    }

    #[tokio::test]
    async fn a_charge_that_arrives_behind_its_refund_is_declined() {
        let (mesh, provider) = provider(Settings::default()).await;
        let key = Id::new();
        provider.refund(key, &won(50_000)).await.unwrap();
        assert_eq!(charge(&provider, key).await, Charge::Declined);
        assert_eq!(
            ProviderLog::read(&mesh.store_apart("payment", "provider")).unwrap().entries,
            []
        );
    }

    #[tokio::test]
    async fn what_was_declined_stays_declined() {
        let (mesh, provider) =
            provider(Settings { decline_share: 0.5, ..Settings::default() }).await;
        let mut approved = 0;
        for _ in 0..20 {
            let key = Id::new();
            let answer = charge(&provider, key).await;
            assert_eq!(charge(&provider, key).await, answer);
            approved += usize::from(answer != Charge::Declined);
        }
        assert_eq!(
            ProviderLog::read(&mesh.store_apart("payment", "provider")).unwrap().entries.len(),
            approved
        );
    }

    #[tokio::test]
    async fn who_gives_up_waiting_has_been_charged_all_the_same() {
        let (mesh, provider) = provider(a_minute()).await;
        let key = Id::new();
        mesh_testing::eventually("the charge is in the books", || async {
            timeout(Duration::from_millis(50), charge(&provider, key)).await.unwrap_err();
            let standing = ProviderLog::read(&mesh.store_apart("payment", "provider"))
                .unwrap()
                .standing(&key.to_string());
            (standing == 50_000).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn g10_who_gives_up_in_the_queue_is_not_charged() {
        let (mesh, provider) =
            provider(Settings { concurrency: NonZero::new(1), ..a_minute() }).await;
        let (first, second) = (Id::new(), Id::new());
        let waits = async {
            let given_up = timeout(Duration::from_millis(50), charge(&provider, second)).await;
            assert!(given_up.is_err(), "there is one place");
        };
        tokio::select! {
            biased;
            _ = charge(&provider, first) => panic!("it takes a minute"),
            () = waits => {}
        }
        let books = mesh_testing::eventually("the first charge is in the books", || async {
            Some(ProviderLog::read(&mesh.store_apart("payment", "provider")).unwrap())
                .filter(|books| !books.entries.is_empty())
        });
        assert_eq!(books.await.standing(&second.to_string()), 0);
    }
}
