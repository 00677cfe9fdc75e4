//! The tables of reservations and of what is known of performances.

use std::time::{Duration, SystemTime};

use diesel::dsl::sum;
use diesel::prelude::*;
use mesh::{
    Accounts, Conn, Error, Id, Money, Page, Result, insert, literal, micros, on_engine, time_of,
    update,
};

use crate::domain::{MusicalReservations, Musicals, Performance, Reservation, State};

diesel::table! {
    reservation (name) {
        name -> Text,
        customer -> Text,
        musical -> Text,
        musical_title -> Text,
        performance -> BigInt,
        seats -> Integer,
        currency -> Text,
        amount -> BigInt,
        state -> Text,
        confirmed -> Bool,
        hold_expires -> BigInt,
        create_time -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    performance (name) {
        name -> Text,
        title -> Text,
        currency -> Text,
        price -> BigInt,
        time -> BigInt,
        withdrawn -> Bool,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = reservation, treat_none_as_default_value = false)]
struct Row {
    name: String,
    customer: String,
    musical: String,
    musical_title: String,
    performance: i64,
    seats: i32,
    currency: String,
    amount: i64,
    state: String,
    confirmed: bool,
    hold_expires: i64,
    create_time: i64,
    revision: i64,
}

impl From<&Reservation> for Row {
    fn from(reservation: &Reservation) -> Self {
        Self {
            name: reservation.id.to_string(),
            customer: reservation.customer.to_string(),
            musical: reservation.musical.to_string(),
            musical_title: reservation.musical_title.clone(),
            performance: micros(reservation.performance),
            seats: reservation.seats,
            currency: reservation.amount.currency.clone(),
            amount: reservation.amount.minor_units,
            state: word(reservation.state).to_owned(),
            confirmed: reservation.confirmed,
            hold_expires: micros(reservation.hold_expires),
            create_time: micros(reservation.created),
            revision: reservation.revision,
        }
    }
}

impl TryFrom<Row> for Reservation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            customer: row.customer.parse().map_err(Error::internal)?,
            musical: row.musical.parse().map_err(Error::internal)?,
            musical_title: row.musical_title,
            performance: time_of(row.performance),
            seats: row.seats,
            amount: Money::new(&row.currency, row.amount),
            state: state(&row.state)?,
            confirmed: row.confirmed,
            hold_expires: time_of(row.hold_expires),
            created: time_of(row.create_time),
            revision: row.revision,
        })
    }
}

const CANCELLED: &str = "CANCELLED";

pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::SeatsReserved => "SEATS_RESERVED",
        State::PaymentApproved => "PAYMENT_APPROVED",
        State::PaymentDeclined => "PAYMENT_DECLINED",
        State::Expired => "EXPIRED",
        State::Cancelled => CANCELLED,
    }
}

fn state(text: &str) -> Result<State> {
    [
        State::SeatsReserved,
        State::PaymentApproved,
        State::PaymentDeclined,
        State::Expired,
        State::Cancelled,
    ]
    .into_iter()
    .find(|state| word(*state) == text)
    .ok_or_else(|| Error::internal(format!("a reservation cannot be {text}")))
}

/// A new reservation.
pub(crate) fn add(conn: &mut Conn, reservation: &Reservation) -> Result<()> {
    insert(reservation::table, Row::from(reservation)).execute(conn)?;
    Ok(())
}

/// Where a reservation stands now. Whose it is and for what never changes, and the index of that is left alone.
pub(crate) fn save(conn: &mut Conn, changed: &Reservation) -> Result<()> {
    let row = reservation::name.eq(changed.id.to_string());
    let values = (
        reservation::state.eq(word(changed.state)),
        reservation::confirmed.eq(changed.confirmed),
        reservation::hold_expires.eq(micros(changed.hold_expires)),
        reservation::revision.eq(changed.revision),
    );
    update(reservation::table, row, values).execute(conn)?;
    Ok(())
}

/// A reservation, whoever's it is: for policies. None where it was never registered.
pub(crate) fn find(conn: &mut Conn, id: Id<MusicalReservations>) -> Result<Option<Reservation>> {
    let row = on_engine!(conn, |engine| reservation::table
        .find(id.to_string())
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.map(Reservation::try_from).transpose()
}

/// A reservation that must be there.
pub(crate) fn load(conn: &mut Conn, id: Id<MusicalReservations>) -> Result<Reservation> {
    find(conn, id)?.ok_or_else(|| Error::NotFound(id.to_string()))
}

/// A reservation of this customer.
pub(crate) fn own(
    conn: &mut Conn,
    customer: Id<Accounts>,
    id: Id<MusicalReservations>,
) -> Result<Reservation> {
    let row = on_engine!(conn, |engine| reservation::table
        .find(id.to_string())
        .filter(reservation::customer.eq(customer.to_string()))
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// A page of this customer's reservations, newest first.
pub(crate) fn list(
    conn: &mut Conn,
    customer: Id<Accounts>,
    with_cancelled: bool,
    page: &Page,
) -> Result<Vec<Reservation>> {
    // No state has this name: nothing is hidden.
    let hidden = if with_cancelled { "" } else { CANCELLED };
    let rows: Vec<Row> = on_engine!(conn, |engine| reservation::table
        .filter(reservation::customer.eq(customer.to_string()))
        .filter(reservation::state.ne(hidden))
        .filter(reservation::name.lt(page.before()))
        .order(reservation::name.desc())
        .limit(page.limit())
        .select(Row::as_select())
        .load(engine))?;
    rows.into_iter().map(Reservation::try_from).collect()
}

/// What is held, in the words of its indexes.
const STILL_HELD: &str = "state = 'SEATS_RESERVED'";

/// How many seats of a performance this customer holds.
pub(crate) fn held(conn: &mut Conn, customer: Id<Accounts>, musical: Id<Musicals>) -> Result<i64> {
    let seats: Option<i64> = on_engine!(conn, |engine| reservation::table
        .filter(literal(STILL_HELD))
        .filter(reservation::customer.eq(customer.to_string()))
        .filter(reservation::musical.eq(musical.to_string()))
        .select(sum(reservation::seats))
        .first(engine))?;
    Ok(seats.unwrap_or_default())
}

/// Some holds whose time is over.
pub(crate) fn overdue(conn: &mut Conn, now: SystemTime) -> Result<Vec<Reservation>> {
    let rows: Vec<Row> = on_engine!(conn, |engine| reservation::table
        .filter(literal(STILL_HELD))
        .filter(reservation::hold_expires.le(micros(now)))
        .order(reservation::hold_expires)
        .limit(100)
        .select(Row::as_select())
        .load(engine))?;
    rows.into_iter().map(Reservation::try_from).collect()
}

/// Gives every hold so much more time.
pub(crate) fn prolong_holds(conn: &mut Conn, by: Duration) -> Result<()> {
    let by = i64::try_from(by.as_micros()).map_err(Error::internal)?;
    diesel::update(reservation::table.filter(literal(STILL_HELD)))
        .set(reservation::hold_expires.eq(reservation::hold_expires + by))
        .execute(conn)?;
    Ok(())
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = performance, treat_none_as_default_value = false)]
struct PerformanceRow {
    name: String,
    title: String,
    currency: String,
    price: i64,
    time: i64,
    withdrawn: bool,
}

/// A performance that can be reserved from now on.
pub(crate) fn add_performance(conn: &mut Conn, performance: Performance) -> Result<()> {
    let row = PerformanceRow {
        name: performance.id.to_string(),
        title: performance.title,
        currency: performance.price.currency,
        price: performance.price.minor_units,
        time: micros(performance.time),
        withdrawn: performance.withdrawn,
    };
    diesel::insert_into(performance::table).values(row).execute(conn)?;
    Ok(())
}

/// A performance that is another than it was.
pub(crate) fn change_performance(
    conn: &mut Conn,
    id: Id<Musicals>,
    title: &str,
    price: Money,
    time: SystemTime,
) -> Result<()> {
    let values = (
        performance::title.eq(title),
        performance::currency.eq(price.currency),
        performance::price.eq(price.minor_units),
        performance::time.eq(micros(time)),
    );
    diesel::update(performance::table.find(id.to_string())).set(values).execute(conn)?;
    Ok(())
}

/// A performance that is not for sale any more.
pub(crate) fn withdraw_performance(conn: &mut Conn, id: Id<Musicals>) -> Result<()> {
    diesel::update(performance::table.find(id.to_string()))
        .set(performance::withdrawn.eq(true))
        .execute(conn)?;
    Ok(())
}

/// What is known of a performance.
pub(crate) fn performance(conn: &mut Conn, id: Id<Musicals>) -> Result<Performance> {
    let row = on_engine!(conn, |engine| performance::table
        .find(id.to_string())
        .select(PerformanceRow::as_select())
        .first(engine)
        .optional())?;
    let row = row.ok_or_else(|| Error::NotFound(id.to_string()))?;
    Ok(Performance {
        id,
        title: row.title,
        price: Money::new(&row.currency, row.price),
        time: time_of(row.time),
        withdrawn: row.withdrawn,
    })
}
