//! Payments and due refunds as the store keeps them.

use std::time::{Duration, SystemTime};

use diesel::prelude::*;
use mesh::{Conn, Error, Id, Money, Page, Result, literal, micros, on_engine, time_of, update};

use crate::domain::{Payment, Payments, State};

diesel::table! {
    payment (name) {
        name -> Text,
        order_name -> Text,
        customer -> Text,
        currency -> Text,
        amount -> BigInt,
        refunded -> BigInt,
        state -> Text,
        reason -> Text,
        provider_reference -> Text,
        revision -> BigInt,
        create_time -> BigInt,
    }
}

diesel::table! {
    payment_refund_due (payment) {
        payment -> Text,
        currency -> Text,
        amount -> BigInt,
        cause -> Text,
        attempts -> Integer,
        due_time -> BigInt,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = payment, treat_none_as_default_value = false)]
struct Row {
    name: String,
    order_name: String,
    customer: String,
    currency: String,
    amount: i64,
    refunded: i64,
    state: String,
    reason: String,
    provider_reference: String,
    revision: i64,
    create_time: i64,
}

impl From<&Payment> for Row {
    fn from(payment: &Payment) -> Self {
        Self {
            name: payment.id.to_string(),
            order_name: payment.order.clone(),
            customer: payment.customer.to_string(),
            currency: payment.amount.currency.clone(),
            amount: payment.amount.minor_units,
            refunded: payment.refunded.minor_units,
            state: text_of(payment.state).to_owned(),
            reason: payment.reason.clone(),
            provider_reference: payment.reference.clone(),
            revision: payment.revision,
            create_time: micros(payment.created),
        }
    }
}

impl TryFrom<Row> for Payment {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            order: row.order_name,
            customer: row.customer.parse().map_err(Error::internal)?,
            amount: Money::new(&row.currency, row.amount),
            refunded: Money::new(&row.currency, row.refunded),
            state: state_of(&row.state)?,
            reason: row.reason,
            reference: row.provider_reference,
            revision: row.revision,
            created: time_of(row.create_time),
        })
    }
}

const fn text_of(state: State) -> &'static str {
    match state {
        State::Pending => "PENDING",
        State::Approved => "APPROVED",
        State::Declined => "DECLINED",
        State::Voided => "VOIDED",
        State::Refunding => "REFUNDING",
        State::Cancelled => "CANCELLED",
    }
}

fn state_of(text: &str) -> Result<State> {
    let hidden = [State::Pending, State::Voided];
    let state = State::VISIBLE.into_iter().chain(hidden).find(|state| text_of(*state) == text);
    state.ok_or_else(|| Error::internal(format!("a payment in the state {text}")))
}

/// The payment with this name, hidden or not.
pub(crate) fn find(conn: &mut Conn, id: Id<Payments>) -> Result<Option<Payment>> {
    let row = on_engine!(conn, |engine| payment::table
        .find(id.to_string())
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.map(Payment::try_from).transpose()
}

/// The payment for this order, hidden or not.
pub(crate) fn find_by_order(conn: &mut Conn, order: &str) -> Result<Option<Payment>> {
    let row = on_engine!(conn, |engine| payment::table
        .filter(payment::order_name.eq(order))
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.map(Payment::try_from).transpose()
}

/// Whose payments are looked for, and of which order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) customer: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) order: Option<String>,
}

/// The payments that may be seen, newest first.
pub(crate) fn list(
    conn: &mut Conn,
    filter: Filter,
    before: &str,
    limit: i64,
) -> Result<Vec<Payment>> {
    let mut query = payment::table
        .filter(payment::state.eq_any(State::VISIBLE.map(text_of)))
        .filter(payment::name.lt(before.to_owned()))
        .order(payment::name.desc())
        .limit(limit)
        .select(Row::as_select())
        .into_boxed();
    if let Some(customer) = filter.customer {
        query = query.filter(payment::customer.eq(customer));
    }
    if let Some(name) = filter.name {
        query = query.filter(payment::name.eq(name));
    }
    if let Some(order) = filter.order {
        query = query.filter(payment::order_name.eq(order));
    }
    query.load(conn)?.into_iter().map(Payment::try_from).collect()
}

/// As [`list`], a page of it.
pub(crate) fn list_page(
    conn: &mut Conn,
    filter: Filter,
    page: &Page,
) -> Result<(Vec<Payment>, String)> {
    let payments = list(conn, filter, page.before(), page.limit())?;
    Ok(page.cut(payments, |payment| payment.id.to_string()))
}

/// What is under way, in the words of its index.
const UNDER_WAY: &str = "state = 'PENDING'";

/// Charges under way that began before `time`.
pub(crate) fn pending_since(conn: &mut Conn, time: SystemTime, limit: i64) -> Result<Vec<Payment>> {
    let rows = on_engine!(conn, |engine| payment::table
        .filter(literal(UNDER_WAY))
        .filter(payment::create_time.lt(micros(time)))
        .order(payment::create_time)
        .limit(limit)
        .select(Row::as_select())
        .load(engine))?;
    rows.into_iter().map(Payment::try_from).collect()
}

/// Stores a payment that is new.
pub(crate) fn insert(conn: &mut Conn, payment: &Payment) -> Result<()> {
    mesh::insert(payment::table, Row::from(payment)).execute(conn)?;
    Ok(())
}

/// Stores what became of a payment. Whose it is and for what never changes, and the indexes of that are left alone.
pub(crate) fn save(conn: &mut Conn, changed: &Payment) -> Result<()> {
    let row = payment::name.eq(changed.id.to_string());
    let values = (
        payment::refunded.eq(changed.refunded.minor_units),
        payment::state.eq(text_of(changed.state)),
        payment::reason.eq(&changed.reason),
        payment::provider_reference.eq(&changed.reference),
        payment::revision.eq(changed.revision),
    );
    update(payment::table, row, values).execute(conn)?;
    Ok(())
}

/// Forgets a payment that never was.
pub(crate) fn delete(conn: &mut Conn, id: Id<Payments>) -> Result<()> {
    diesel::delete(payment::table.find(id.to_string())).execute(conn)?;
    Ok(())
}

/// What the provider must give back, until it says that it did.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    /// The key of the charge.
    pub(crate) payment: Id<Payments>,
    /// What to give back: for a charge that is undone, all of it.
    pub(crate) amount: Money,
    /// The request that wants it.
    pub(crate) cause: String,
    /// How often the provider was asked in vain.
    pub(crate) attempts: i32,
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = payment_refund_due, treat_none_as_default_value = false)]
struct DueRow {
    payment: String,
    currency: String,
    amount: i64,
    cause: String,
    attempts: i32,
    due_time: i64,
}

impl TryFrom<DueRow> for Due {
    type Error = Error;

    fn try_from(row: DueRow) -> Result<Self> {
        Ok(Self {
            payment: row.payment.parse().map_err(Error::internal)?,
            amount: Money::new(&row.currency, row.amount),
            cause: row.cause,
            attempts: row.attempts,
        })
    }
}

/// Stores that this is to be given back, from `time` on. What is due already stays as it is.
pub(crate) fn owe(conn: &mut Conn, due: &Due, time: SystemTime) -> Result<()> {
    if find_due(conn, due.payment)?.is_some() {
        return Ok(());
    }
    let row = DueRow {
        payment: due.payment.to_string(),
        currency: due.amount.currency.clone(),
        amount: due.amount.minor_units,
        cause: due.cause.clone(),
        attempts: due.attempts,
        due_time: micros(time),
    };
    diesel::insert_into(payment_refund_due::table).values(row).execute(conn)?;
    Ok(())
}

/// What is to be given back of this payment.
pub(crate) fn find_due(conn: &mut Conn, payment: Id<Payments>) -> Result<Option<Due>> {
    let row = on_engine!(conn, |engine| payment_refund_due::table
        .find(payment.to_string())
        .select(DueRow::as_select())
        .first(engine)
        .optional())?;
    row.map(Due::try_from).transpose()
}

/// What was to be given back by `time`, what waits longest first.
pub(crate) fn list_due(conn: &mut Conn, time: SystemTime, limit: i64) -> Result<Vec<Due>> {
    let rows = on_engine!(conn, |engine| payment_refund_due::table
        .filter(payment_refund_due::due_time.le(micros(time)))
        .order(payment_refund_due::due_time)
        .limit(limit)
        .select(DueRow::as_select())
        .load(engine))?;
    rows.into_iter().map(Due::try_from).collect()
}

/// The provider is asked again later.
pub(crate) fn postpone(conn: &mut Conn, payment: Id<Payments>, wait: Duration) -> Result<()> {
    let values = (
        payment_refund_due::attempts.eq(payment_refund_due::attempts + 1),
        payment_refund_due::due_time.eq(micros(mesh::now() + wait)),
    );
    diesel::update(payment_refund_due::table.find(payment.to_string()))
        .set(values)
        .execute(conn)?;
    Ok(())
}

/// Everything is due at once.
pub(crate) fn hurry(conn: &mut Conn) -> Result<()> {
    diesel::update(payment_refund_due::table)
        .set(payment_refund_due::due_time.eq(0))
        .execute(conn)?;
    Ok(())
}

/// The provider gave it back.
pub(crate) fn settle_due(conn: &mut Conn, payment: Id<Payments>) -> Result<()> {
    diesel::delete(payment_refund_due::table.find(payment.to_string())).execute(conn)?;
    Ok(())
}
