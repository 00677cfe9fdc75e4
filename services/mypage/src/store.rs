//! The tables of the view. Policies write the generation that they make, readers read the current one.

use std::collections::HashMap;

use diesel::dsl::{case_when, min};
use diesel::prelude::*;
use diesel::query_builder::QueryId;
use mesh::events::Generations;
use mesh::{
    Bug, Conn, Error, Event, Money, Page, Result, Series, Tx, insert, insert_once, micros,
    on_engine, planted, time_of, update,
};

use crate::domain::{MyOrder, Progress};

diesel::table! {
    my_order (generation, name) {
        generation -> Integer,
        name -> Text,
        system -> Text,
        customer -> Text,
        title -> Text,
        quantity -> Integer,
        currency -> Text,
        amount -> BigInt,
        state -> Text,
        payment_state -> Text,
        create_time -> BigInt,
        update_time -> BigInt,
        visible -> Bool,
        change -> BigInt,
    }
}

diesel::table! {
    my_progress (generation, order_name, event_id) {
        generation -> Integer,
        order_name -> Text,
        event_id -> Text,
        event -> Text,
        source -> Text,
        subject -> Text,
        sequence -> BigInt,
        time -> BigInt,
    }
}

diesel::table! {
    my_change (one) {
        one -> Integer,
        last -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(my_order, my_progress);

#[derive(Queryable, Selectable, Insertable, AsChangeset, QueryId)]
#[diesel(table_name = my_order, primary_key(generation, name), treat_none_as_default_value = false)]
struct OrderRow {
    generation: i32,
    name: String,
    system: String,
    customer: String,
    title: String,
    quantity: i32,
    currency: String,
    amount: i64,
    state: String,
    payment_state: String,
    create_time: i64,
    update_time: i64,
    visible: bool,
    change: i64,
}

impl OrderRow {
    fn of(order: MyOrder, generation: i32, change: i64) -> Self {
        Self {
            generation,
            name: order.name,
            system: order.system,
            customer: order.customer,
            title: order.title,
            quantity: i32::try_from(order.quantity).unwrap_or(i32::MAX),
            currency: order.amount.currency,
            amount: order.amount.minor_units,
            state: order.state,
            payment_state: order.payment_state,
            create_time: micros(order.create_time),
            update_time: micros(order.update_time),
            visible: order.visible,
            change,
        }
    }
}

impl From<OrderRow> for MyOrder {
    fn from(row: OrderRow) -> Self {
        Self {
            name: row.name,
            system: row.system,
            customer: row.customer,
            title: row.title,
            quantity: row.quantity.unsigned_abs(),
            amount: Money::new(&row.currency, row.amount),
            state: row.state,
            payment_state: row.payment_state,
            create_time: time_of(row.create_time),
            update_time: time_of(row.update_time),
            visible: row.visible,
        }
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = my_progress, treat_none_as_default_value = false)]
struct ProgressRow {
    generation: i32,
    order_name: String,
    event_id: String,
    event: String,
    source: String,
    subject: String,
    sequence: i64,
    time: i64,
}

impl From<ProgressRow> for Progress {
    fn from(row: ProgressRow) -> Self {
        Self {
            event: row.event,
            source: row.source,
            subject: row.subject,
            sequence: row.sequence,
            time: time_of(row.time),
        }
    }
}

// === What policies write ===

/// Gives an event its effect on an order, once: `effect` is what the order takes of it. A row that nobody has written
/// yet begins hidden; `customer` is whose it is, or empty until its own first event says so.
pub(crate) fn apply<M>(
    tx: &mut Tx<'_>,
    event: &Event<M>,
    name: &str,
    customer: &str,
    effect: impl FnOnce(&mut MyOrder),
) -> Result<()> {
    let generation = tx.generation();
    if !note(tx, generation, name, event)? {
        return Ok(());
    }
    let known = on_engine!(&mut **tx, |engine| {
        my_order::table
            .find((generation, name))
            .select(OrderRow::as_select())
            .first(engine)
            .optional()
    })?;
    let (is_new, was_visible) = (known.is_none(), known.as_ref().is_some_and(|row| row.visible));
    let mut order = known.map_or_else(|| MyOrder::unheard_of(name, customer), MyOrder::from);
    effect(&mut order);
    order.happened(event.time);

    let changed = OrderRow::of(order, generation, tx.next_of(&CHANGES)?);
    let row = my_order::generation.eq(generation).and(my_order::name.eq(name));
    if is_new {
        insert(my_order::table, changed).execute(tx)?;
    } else if was_visible {
        // What its first event has told stays, and the index of it is left alone.
        let values = (
            my_order::state.eq(changed.state),
            my_order::payment_state.eq(changed.payment_state),
            my_order::update_time.eq(changed.update_time),
            my_order::change.eq(changed.change),
        );
        update(my_order::table, row, values).execute(tx)?;
    } else {
        update(my_order::table, row, changed).execute(tx)?;
    }
    Ok(())
}

/// Gives an event its place in the history of an order, once, whatever the order is by now. For the rest as [`apply`].
pub(crate) fn tell<M>(tx: &mut Tx<'_>, event: &Event<M>, name: &str, customer: &str) -> Result<()> {
    let (generation, time) = (tx.generation(), micros(event.time));
    if !note(tx, generation, name, event)? {
        return Ok(());
    }
    let row = my_order::generation.eq(generation).and(my_order::name.eq(name));
    let last = case_when(my_order::update_time.ge(time), my_order::update_time).otherwise(time);
    let change = tx.next_of(&CHANGES)?;
    let values = (my_order::update_time.eq(last), my_order::change.eq(change));
    if update(my_order::table, row, values).execute(tx)? == 0 {
        let mut order = MyOrder::unheard_of(name, customer);
        order.happened(event.time);
        let row = OrderRow::of(order, generation, change);
        insert(my_order::table, row).execute(tx)?;
    }
    Ok(())
}

/// Writes an event down in an order's history; says whether it was not there yet.
fn note<M>(conn: &mut Conn, generation: i32, order: &str, event: &Event<M>) -> Result<bool> {
    let progress = ProgressRow {
        generation,
        order_name: order.to_owned(),
        event_id: event.id.clone(),
        event: event.short_name().to_owned(),
        source: event.source.clone(),
        subject: event.subject.clone(),
        sequence: i64::try_from(event.sequence).unwrap_or(i64::MAX),
        time: micros(event.time),
    };
    Ok(insert_once(my_progress::table, progress).execute(conn)? > 0)
}

/// The numbers of the changes of any row.
static CHANGES: Series = Series {
    last: last_change,
    save: |conn, last| {
        let last = my_change::last.eq(last);
        update(my_change::table, my_change::one.eq(1), last).execute(conn).map(drop)
    },
};

fn last_change(conn: &mut Conn) -> QueryResult<i64> {
    on_engine!(conn, |engine| my_change::table.select(my_change::last).first(engine))
}

/// How many rows of an old generation are removed at once.
const DISCARDED: i64 = 500;

/// Removes some rows of `generation` and older ones; says how many.
pub(crate) fn discard(tx: &mut Tx<'_>, generation: i32) -> Result<usize> {
    let oldest: Option<i32> =
        my_progress::table.select(min(my_progress::generation)).first(&mut **tx)?;
    if let Some(oldest) = oldest.filter(|oldest| *oldest <= generation) {
        let mut orders: Vec<String> = on_engine!(&mut **tx, |engine| my_progress::table
            .filter(my_progress::generation.eq(oldest))
            .order(my_progress::order_name)
            .select(my_progress::order_name)
            .limit(DISCARDED)
            .load(engine))?;
        orders.dedup();
        let old = my_progress::table.filter(my_progress::generation.eq(oldest));
        return Ok(diesel::delete(old.filter(my_progress::order_name.eq_any(orders)))
            .execute(&mut **tx)?);
    }
    let oldest: Option<i32> = on_engine!(&mut **tx, |engine| my_order::table
        .select(min(my_order::generation))
        .first(engine))?;
    let Some(oldest) = oldest.filter(|oldest| *oldest <= generation) else { return Ok(0) };
    let names: Vec<String> = on_engine!(&mut **tx, |engine| my_order::table
        .filter(my_order::generation.eq(oldest))
        .select(my_order::name)
        .limit(DISCARDED)
        .load(engine))?;
    let old = my_order::table.filter(my_order::generation.eq(oldest));
    Ok(diesel::delete(old.filter(my_order::name.eq_any(names))).execute(&mut **tx)?)
}

// === What readers read ===

/// An order with everything that happened to it, oldest first.
pub(crate) type Told = (MyOrder, Vec<Progress>);

/// Reads the current generation as it is at one moment: it may be replaced and removed meanwhile.
fn current<T>(conn: &mut Conn, read: impl FnOnce(&mut Conn, i32) -> Result<T>) -> Result<T> {
    conn.transaction(|conn| {
        let generation = Generations::current(conn)?;
        read(conn, generation)
    })
}

/// An order of this customer.
pub(crate) fn order(conn: &mut Conn, customer: &str, name: &str) -> Result<Told> {
    current(conn, |conn, generation| {
        let row = on_engine!(conn, |engine| {
            let named = my_order::table
                .find((generation, name))
                .filter(my_order::visible)
                .select(OrderRow::as_select());
            match planted(Bug::NoOwnerFilter) {
                false => named.filter(my_order::customer.eq(customer)).load(engine),
                true => named.load(engine),
            }
        })?;
        let told = with_history(conn, generation, row)?.pop();
        told.ok_or_else(|| Error::NotFound(name.to_owned()))
    })
}

/// A page of this customer's orders, newest first.
pub(crate) fn orders(conn: &mut Conn, customer: &str, page: &Page) -> Result<Vec<Told>> {
    let (time, name) = page.below()?;
    current(conn, |conn, generation| {
        // Changes are numbered from 1: whatever ever changed.
        let rows = newest(conn, generation, customer, 0, (time, name), page.limit())?;
        with_history(conn, generation, rows)
    })
}

/// This customer's orders that changed after `change` and are below a place, the newest first.
fn newest(
    conn: &mut Conn,
    generation: i32,
    customer: &str,
    change: i64,
    (time, name): (i64, &str),
    most: i64,
) -> QueryResult<Vec<OrderRow>> {
    on_engine!(conn, |engine| my_order::table
        .filter(my_order::generation.eq(generation))
        .filter(my_order::customer.eq(customer))
        .filter(my_order::visible)
        // The first condition is all that an index can use.
        .filter(my_order::create_time.le(time))
        .filter(my_order::create_time.lt(time).or(my_order::name.lt(name)))
        .filter(my_order::change.gt(change))
        .order((my_order::create_time.desc(), my_order::name.desc()))
        .limit(most)
        .select(OrderRow::as_select())
        .load(engine))
}

fn with_history(conn: &mut Conn, generation: i32, rows: Vec<OrderRow>) -> Result<Vec<Told>> {
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let progress: Vec<ProgressRow> = on_engine!(conn, |engine| my_progress::table
        .filter(my_progress::generation.eq(generation))
        .filter(my_progress::order_name.eq_any(names))
        .order((
            my_progress::time,
            my_progress::source,
            my_progress::subject,
            my_progress::sequence,
        ))
        .select(ProgressRow::as_select())
        .load(engine))?;
    let mut histories: HashMap<String, Vec<Progress>> = HashMap::new();
    for row in progress {
        histories.entry(row.order_name.clone()).or_default().push(row.into());
    }
    let told = rows.into_iter().map(|row| {
        let history = histories.remove(&row.name).unwrap_or_default();
        (row.into(), history)
    });
    Ok(told.collect())
}

/// Whether the view has heard of this version of `subject`, in an order of this customer.
pub(crate) fn has(conn: &mut Conn, customer: &str, subject: &str, sequence: i64) -> Result<bool> {
    current(conn, |conn, generation| {
        let its_order = my_order::name.eq(my_progress::order_name);
        let found = my_progress::table
            .inner_join(my_order::table.on(my_order::generation.eq(generation).and(its_order)))
            .filter(my_progress::generation.eq(generation))
            .filter(my_progress::subject.eq(subject))
            .filter(my_progress::sequence.ge(sequence))
            .filter(my_order::customer.eq(customer))
            .select(my_progress::sequence)
            .first::<i64>(conn)
            .optional()?;
        Ok(found.is_some())
    })
}

/// A place in the changes of one generation of the view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) generation: i32,
    pub(crate) change: i64,
}

impl Mark {
    fn now(conn: &mut Conn, generation: i32) -> Result<Self> {
        Ok(Self { generation, change: last_change(conn)? })
    }

    /// Whether what happened between the two can be told. Another generation took its changes in another order, and a
    /// mark that is ahead is of a store that was lost: then everything is new.
    pub(crate) fn leads_to(self, now: Self) -> bool {
        self.generation == now.generation && self.change <= now.change
    }
}

/// A change of an order: which one it is of all changes, whose the order is, and its name.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = my_order)]
pub(crate) struct Change {
    #[diesel(column_name = change)]
    pub(crate) number: i64,
    pub(crate) customer: String,
    pub(crate) name: String,
}

/// The mark now, and what changed since another, the first `most` of it; nothing where nobody wants it by then.
pub(crate) fn changed(
    conn: &mut Conn,
    since: Mark,
    most: usize,
    is_wanted: impl FnOnce() -> bool,
) -> Result<(Mark, Vec<Change>)> {
    current(conn, |conn, generation| {
        let now = Mark::now(conn, generation)?;
        if !since.leads_to(now) || !is_wanted() {
            return Ok((now, Vec::new()));
        }
        let changes = on_engine!(conn, |engine| my_order::table
            .filter(my_order::generation.eq(generation))
            .filter(my_order::visible)
            .filter(my_order::change.gt(since.change))
            .order(my_order::change)
            .limit(i64::try_from(most).unwrap_or(i64::MAX))
            .select(Change::as_select())
            .load(engine))?;
        Ok((now, changes))
    })
}

/// The orders of this customer that changed, as they are now; none where the generation is another by now.
pub(crate) fn as_they_are(
    conn: &mut Conn,
    customer: &str,
    generation: i32,
    changes: Vec<Change>,
) -> Result<Option<Vec<Told>>> {
    current(conn, |conn, now| {
        if now != generation {
            return Ok(None);
        }
        let names: Vec<String> = changes.into_iter().map(|change| change.name).collect();
        let rows: Vec<OrderRow> = on_engine!(conn, |engine| my_order::table
            .filter(my_order::generation.eq(generation))
            .filter(my_order::name.eq_any(names))
            .filter(my_order::customer.eq(customer))
            .order(my_order::change)
            .select(OrderRow::as_select())
            .load(engine))?;
        Ok(Some(with_history(conn, generation, rows)?))
    })
}

/// A place among a customer's orders: when one was made, and its name.
pub(crate) type Place = (i64, String);
/// Before the newest.
pub(crate) const NEWEST: Place = (i64::MAX, String::new());

/// The orders of this customer below a place that changed since `seen`, the newest `most` of them, and the mark now.
pub(crate) fn missed(
    conn: &mut Conn,
    customer: &str,
    seen: Mark,
    (time, name): &Place,
    most: usize,
) -> Result<(Vec<Told>, Mark)> {
    current(conn, |conn, generation| {
        let now = Mark::now(conn, generation)?;
        let since = if seen.leads_to(now) { seen.change } else { 0 };
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = newest(conn, generation, customer, since, (*time, name), most)?;
        Ok((with_history(conn, generation, rows)?, now))
    })
}
