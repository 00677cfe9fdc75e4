//! The books of the simulated provider: a store of its own, which also tells what it did when payment's own store does
//! not know.

use diesel::prelude::*;
use diesel_migrations::embed_migrations;
use mesh::{Collection as _, Kit, Migrations, Money, Store, StoreAt, Tx, micros, on_engine};

use crate::domain::{Charge, Payments};

const MIGRATIONS: Migrations = Migrations {
    sqlite: embed_migrations!("migrations/provider/sqlite"),
    postgres: embed_migrations!("migrations/provider/postgres"),
};

const CHARGED: &str = "CHARGED";
const DECLINED: &str = "DECLINED";
/// Refunded before it was charged: it never will be.
const VOIDED: &str = "VOIDED";

diesel::table! {
    provider_charge (key) {
        key -> Text,
        state -> Text,
        currency -> Text,
        amount -> BigInt,
        refunded -> BigInt,
        time -> BigInt,
    }
}

/// Where the books are.
pub(crate) const STORE: &str = "provider";

pub(crate) fn migrations() -> Migrations {
    MIGRATIONS
}

/// Opens the books.
pub(crate) fn open(kit: &Kit) -> mesh::Result<Store> {
    kit.store_apart()
}

/// What it decided for a key, and whether that is new.
pub(super) enum Decided<T> {
    Now(T),
    Before(T),
}

/// Charges once under this key, or declines; after a refund it declines.
pub(super) fn charge(
    tx: &mut Tx<'_>,
    key: &str,
    amount: &Money,
    decline: bool,
) -> mesh::Result<Decided<Charge>> {
    let state = if decline { DECLINED } else { CHARGED };
    let answer = |state: &str| match state {
        CHARGED => Charge::Approved { reference: key.replacen(Payments::NAME, "simulated", 1) },
        _ => Charge::Declined,
    };
    let known: Option<String> = on_engine!(&mut **tx, |engine| provider_charge::table
        .find(key)
        .select(provider_charge::state)
        .first(engine)
        .optional())?;
    if let Some(known) = known {
        return Ok(Decided::Before(answer(&known)));
    }
    insert(tx, key, state, amount)?;
    Ok(Decided::Now(answer(state)))
}

/// Gives back once under this key, or notes that there must be no charge.
pub(super) fn refund(tx: &mut Tx<'_>, key: &str, amount: &Money) -> mesh::Result<Decided<()>> {
    let known: Option<(String, i64, i64)> = on_engine!(&mut **tx, |engine| provider_charge::table
        .find(key)
        .select((provider_charge::state, provider_charge::amount, provider_charge::refunded))
        .first(engine)
        .optional())?;
    match known {
        Some((state, charged, 0)) if state == CHARGED && amount.minor_units > 0 => {
            let refunded = amount.minor_units.min(charged);
            diesel::update(provider_charge::table.find(key))
                .set(provider_charge::refunded.eq(refunded))
                .execute(&mut **tx)?;
            Ok(Decided::Now(()))
        }
        Some(_) => Ok(Decided::Before(())),
        None => {
            insert(tx, key, VOIDED, amount)?;
            Ok(Decided::Now(()))
        }
    }
}

fn insert(tx: &mut Tx<'_>, key: &str, state: &str, amount: &Money) -> mesh::Result<()> {
    let row = (
        provider_charge::key.eq(key),
        provider_charge::state.eq(state),
        provider_charge::currency.eq(&amount.currency),
        provider_charge::amount.eq(amount.minor_units),
        provider_charge::refunded.eq(0),
        provider_charge::time.eq(micros(mesh::now())),
    );
    mesh::insert(provider_charge::table, row).execute(tx)?;
    Ok(())
}

/// What the simulated provider did, by its own books: for tests that compare them with what the contexts say.
#[derive(Debug, Clone, Default)]
pub struct ProviderLog {
    /// Every charge that was made, by its key.
    pub entries: Vec<ProviderEntry>,
}

/// One charge in the provider's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderEntry {
    /// The payment's resource name.
    pub key: String,
    /// What was charged.
    pub charged: Money,
    /// What was given back of it.
    pub refunded: Money,
}

impl ProviderLog {
    /// Reads the books, whether a process has them open or not. Blocking.
    pub fn read(at: &StoreAt) -> mesh::Result<Self> {
        if matches!(at, StoreAt::File(file) if !file.exists()) {
            return Ok(Self::default());
        }
        let mut conn = at.connect()?;
        let rows: Vec<(String, String, i64, i64)> = provider_charge::table
            .filter(provider_charge::state.eq(CHARGED))
            .order(provider_charge::key)
            .select((
                provider_charge::key,
                provider_charge::currency,
                provider_charge::amount,
                provider_charge::refunded,
            ))
            .load(&mut conn)?;
        let entries = rows.into_iter().map(|(key, currency, charged, refunded)| ProviderEntry {
            key,
            charged: Money::new(&currency, charged),
            refunded: Money::new(&currency, refunded),
        });
        Ok(Self { entries: entries.collect() })
    }

    /// Charged and not given back, in minor units: of the payment with this name.
    pub fn standing(&self, payment: &str) -> i64 {
        let of = |entry: &&ProviderEntry| entry.key == payment;
        self.entries.iter().filter(of).map(ProviderEntry::standing).sum()
    }

    /// Charged and not given back, in minor units: all of it.
    pub fn total(&self) -> i64 {
        self.entries.iter().map(ProviderEntry::standing).sum()
    }
}

impl ProviderEntry {
    /// Charged and not given back, in minor units.
    pub fn standing(&self) -> i64 {
        self.charged.minor_units - self.refunded.minor_units
    }
}
