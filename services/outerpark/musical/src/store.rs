//! The tables of performances and of the seats that reservations hold.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as Failure};
use mesh::{Conn, Error, Id, Money, Page, Result, insert, micros, on_engine, time_of, update};

use crate::domain::{Musical, MusicalReservations, Musicals, Refusal, SeatHold, Taken, Times};

diesel::table! {
    musical (name) {
        name -> Text,
        musical_number -> BigInt,
        title -> Text,
        venue -> Text,
        performance_time -> BigInt,
        sales_start_time -> Nullable<BigInt>,
        sales_end_time -> Nullable<BigInt>,
        currency -> Text,
        price_per_seat -> BigInt,
        total_seats -> Integer,
        reservable_seats -> Integer,
        state -> Text,
        create_time -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    seat_hold (reservation) {
        reservation -> Text,
        musical -> Text,
        seats -> Integer,
        currency -> Text,
        amount -> BigInt,
        left_free -> Integer,
        returned -> Bool,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = musical, treat_none_as_default_value = false)]
struct MusicalRow {
    name: String,
    musical_number: i64,
    title: String,
    venue: String,
    performance_time: i64,
    sales_start_time: Option<i64>,
    sales_end_time: Option<i64>,
    currency: String,
    price_per_seat: i64,
    total_seats: i32,
    reservable_seats: i32,
    state: String,
    create_time: i64,
    revision: i64,
}

const REGISTERED: &str = "REGISTERED";
const WITHDRAWN: &str = "WITHDRAWN";

fn state_of(musical: &Musical) -> &'static str {
    if musical.withdrawn { WITHDRAWN } else { REGISTERED }
}

impl From<&Musical> for MusicalRow {
    fn from(musical: &Musical) -> Self {
        Self {
            name: musical.id.to_string(),
            musical_number: musical.number,
            title: musical.title.clone(),
            venue: musical.venue.clone(),
            performance_time: micros(musical.times.performance),
            sales_start_time: musical.times.sales_start.map(micros),
            sales_end_time: musical.times.sales_end.map(micros),
            currency: musical.price.currency.clone(),
            price_per_seat: musical.price.minor_units,
            total_seats: musical.total_seats,
            reservable_seats: musical.reservable_seats,
            state: state_of(musical).to_owned(),
            create_time: micros(musical.created),
            revision: musical.revision,
        }
    }
}

impl TryFrom<MusicalRow> for Musical {
    type Error = Error;

    fn try_from(row: MusicalRow) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            number: row.musical_number,
            title: row.title,
            venue: row.venue,
            times: Times {
                performance: time_of(row.performance_time),
                sales_start: row.sales_start_time.map(time_of),
                sales_end: row.sales_end_time.map(time_of),
            },
            price: Money::new(&row.currency, row.price_per_seat),
            total_seats: row.total_seats,
            reservable_seats: row.reservable_seats,
            withdrawn: row.state == WITHDRAWN,
            created: time_of(row.create_time),
            revision: row.revision,
        })
    }
}

/// A new performance, if nobody else has its number.
pub(crate) fn add(conn: &mut Conn, new: &Musical) -> Result<()> {
    let added = diesel::insert_into(musical::table).values(MusicalRow::from(new)).execute(conn);
    unless_taken(added, || Refusal::NumberTaken(new.number).into())
}

/// A performance as it is now; its seats are only moved by [`take_seats`] and [`give_back_seats`].
pub(crate) fn save(conn: &mut Conn, changed: &Musical) -> Result<()> {
    let values = (
        musical::title.eq(&changed.title),
        musical::venue.eq(&changed.venue),
        musical::performance_time.eq(micros(changed.times.performance)),
        musical::sales_start_time.eq(changed.times.sales_start.map(micros)),
        musical::sales_end_time.eq(changed.times.sales_end.map(micros)),
        musical::currency.eq(&changed.price.currency),
        musical::price_per_seat.eq(changed.price.minor_units),
        musical::state.eq(state_of(changed)),
        musical::revision.eq(changed.revision),
    );
    diesel::update(musical::table.find(changed.id.to_string())).set(values).execute(conn)?;
    Ok(())
}

/// Stores that this many seats were deducted, if they still are free.
pub(crate) fn take_seats(conn: &mut Conn, changed: &Musical, seats: i32) -> Result<()> {
    let row = musical::name.eq(changed.id.to_string()).and(musical::reservable_seats.ge(seats));
    let values = (
        musical::reservable_seats.eq(musical::reservable_seats - seats),
        musical::revision.eq(changed.revision),
    );
    let taken = update(musical::table, row, values).execute(conn)?;
    // Somebody else was faster: whoever asks decides again.
    if taken == 0 { Err(Error::Changed(changed.id.to_string())) } else { Ok(()) }
}

/// Stores that this many seats were given back.
pub(crate) fn give_back_seats(conn: &mut Conn, changed: &Musical, seats: i32) -> Result<()> {
    let values = (
        musical::reservable_seats.eq(musical::reservable_seats + seats),
        musical::revision.eq(changed.revision),
    );
    let row = musical::name.eq(changed.id.to_string());
    update(musical::table, row, values).execute(conn)?;
    Ok(())
}

/// A performance, withdrawn or not.
pub(crate) fn musical(conn: &mut Conn, id: Id<Musicals>) -> Result<Musical> {
    let row = on_engine!(conn, |engine| musical::table
        .find(id.to_string())
        .select(MusicalRow::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// A page of the performances that are not withdrawn, newest first.
pub(crate) fn musicals(conn: &mut Conn, page: &Page) -> Result<Vec<Musical>> {
    let rows: Vec<MusicalRow> = on_engine!(conn, |engine| musical::table
        .filter(musical::state.eq(REGISTERED))
        .filter(musical::name.lt(page.before()))
        .order(musical::name.desc())
        .limit(page.limit())
        .select(MusicalRow::as_select())
        .load(engine))?;
    rows.into_iter().map(Musical::try_from).collect()
}

/// How many seats of a performance are free, and how many there are.
pub(crate) fn seats(conn: &mut Conn, id: Id<Musicals>) -> Result<(i32, i32)> {
    let row = on_engine!(conn, |engine| musical::table
        .find(id.to_string())
        .select((musical::reservable_seats, musical::total_seats))
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = seat_hold, treat_none_as_default_value = false)]
struct HoldRow {
    reservation: String,
    musical: String,
    seats: i32,
    currency: String,
    amount: i64,
    left_free: i32,
    returned: bool,
}

impl From<&SeatHold> for HoldRow {
    fn from(hold: &SeatHold) -> Self {
        let taken = hold.taken.as_ref();
        Self {
            reservation: hold.reservation.to_string(),
            musical: taken.map(|taken| taken.musical.to_string()).unwrap_or_default(),
            seats: hold.seats(),
            currency: taken.map(|taken| taken.amount.currency.clone()).unwrap_or_default(),
            amount: taken.map_or(0, |taken| taken.amount.minor_units),
            left_free: taken.map_or(0, |taken| taken.left),
            returned: hold.returned,
        }
    }
}

impl TryFrom<HoldRow> for SeatHold {
    type Error = Error;

    fn try_from(row: HoldRow) -> Result<Self> {
        let taken = |row: &HoldRow| -> Result<Taken> {
            Ok(Taken {
                musical: row.musical.parse().map_err(Error::internal)?,
                seats: row.seats,
                amount: Money::new(&row.currency, row.amount),
                left: row.left_free,
            })
        };
        let is_tombstone = row.musical.is_empty();
        Ok(Self {
            reservation: row.reservation.parse().map_err(Error::internal)?,
            taken: if is_tombstone { None } else { Some(taken(&row)?) },
            returned: row.returned,
        })
    }
}

/// What a reservation holds, or held, if anything.
pub(crate) fn hold(
    conn: &mut Conn,
    reservation: Id<MusicalReservations>,
) -> Result<Option<SeatHold>> {
    let row = on_engine!(conn, |engine| seat_hold::table
        .find(reservation.to_string())
        .select(HoldRow::as_select())
        .first(engine)
        .optional())?;
    row.map(SeatHold::try_from).transpose()
}

/// The first that is heard of a reservation.
pub(crate) fn add_hold(conn: &mut Conn, hold: &SeatHold) -> Result<()> {
    let added = insert(seat_hold::table, HoldRow::from(hold)).execute(conn);
    unless_taken(added, || Error::Changed(hold.reservation.to_string()))
}

/// Whether a hold is returned by now.
pub(crate) fn save_hold(conn: &mut Conn, hold: &SeatHold) -> Result<()> {
    let row = seat_hold::reservation.eq(hold.reservation.to_string());
    update(seat_hold::table, row, seat_hold::returned.eq(hold.returned)).execute(conn)?;
    Ok(())
}

/// What was added, unless there is one with the same key already.
fn unless_taken(added: QueryResult<usize>, taken: impl FnOnce() -> Error) -> Result<()> {
    match added {
        Ok(_) => Ok(()),
        Err(Failure::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Err(taken()),
        Err(error) => Err(error.into()),
    }
}
