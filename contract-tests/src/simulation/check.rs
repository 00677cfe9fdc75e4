//! What must hold: while a run goes on, and in its end, by the stores themselves and the provider's own books.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use super::story::Story;
use crate::stores::Stores;

/// What is not what it must be.
pub(super) type Verdict = Result<(), String>;

/// The contexts, by the letter of their store in a query.
const LOGS: [&str; 7] = ["a", "f", "m", "r", "p", "n", "y"];

/// At every moment: the seats add up, and none is sold twice (invariants I-01, I-02).
pub(super) fn seats(data: &Path, seats: i32) -> Verdict {
    let stores = Stores::open(data);
    let free = stores.number("SELECT coalesce(min(reservable_seats), 0) FROM m.musical");
    let all = stores.number(
        "SELECT (SELECT coalesce(sum(reservable_seats), 0) FROM m.musical) + \
         (SELECT coalesce(sum(seats), 0) FROM m.seat_hold WHERE NOT returned)",
    );
    same("the seats add up", all, i64::from(seats))?;
    if free < 0 { Err(format!("{free} seats are free")) } else { Ok(()) }
}

/// In the end: what was answered is there, what is live is paid, what has seats is live, and all of it once.
pub(super) fn end(data: &Path, seats_of_all: i32, story: &Story) -> Verdict {
    let stores = Stores::open(data);
    same("the stores are sound", stores.faults(), BTreeMap::new())?;
    promises(&stores, story)?;

    let live = stores.amounts(
        "SELECT name, price AS number FROM a.movie_application WHERE state <> 'MOVIE_CANCELLED' \
         UNION ALL SELECT name, amount AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    let paid = stores.amounts(
        "SELECT order_name AS name, amount AS number FROM p.payment WHERE state = 'APPROVED'",
    );
    same("what is live is paid, and what is paid is live", &paid, &live)?;
    let approved =
        stores.amounts("SELECT name, amount AS number FROM p.payment WHERE state = 'APPROVED'");
    let standing = stores.amounts(
        "SELECT key AS name, amount - refunded AS number FROM c.provider_charge \
         WHERE state = 'CHARGED' AND amount > refunded",
    );
    same("the provider's books say the same", standing, approved)?;

    let held = stores
        .amounts("SELECT reservation AS name, seats AS number FROM m.seat_hold WHERE NOT returned");
    let reserved = stores.amounts(
        "SELECT name, seats AS number FROM r.reservation WHERE state = 'PAYMENT_APPROVED'",
    );
    same("who has seats is who reserved them", &held, &reserved)?;
    seats(data, seats_of_all)?;

    let films = live.keys().filter(|name| name.starts_with("movieApplications/")).cloned();
    let bought = stores
        .names("SELECT application AS name FROM f.movie_purchase WHERE state <> 'MOVIE_CANCELLED'");
    same("who paid for a film has it", bought, films.collect::<BTreeSet<_>>())?;
    once(&stores)
}

/// What customers were told is so (invariants I-06, I-07, I-11).
fn promises(stores: &Stores, story: &Story) -> Verdict {
    let states = stores.names(
        "SELECT name || ' ' || state AS name FROM a.movie_application \
         UNION SELECT name || ' ' || state AS name FROM r.reservation",
    );
    let states: BTreeMap<&str, &str> =
        states.iter().filter_map(|state| state.split_once(' ')).collect();
    for (request, order) in &*story.ordered.borrow() {
        if !states.contains_key(order.as_str()) {
            return Err(format!("{order} was answered to {request}, and is lost"));
        }
    }
    for order in &*story.cancelled.borrow() {
        let state = states.get(order.as_str()).copied().unwrap_or_default();
        // A film that was being watched when its cancellation arrived is watched.
        if !["MOVIE_CANCELLED", "MOVIE_WATCHED", "CANCELLED"].contains(&state) {
            return Err(format!("the cancellation of {order} was answered, and it is {state}"));
        }
    }
    for (order, told) in &*story.ends.borrow() {
        let state = states.get(order.as_str()).copied().unwrap_or_default();
        same(&format!("the stream of {order} told its final state"), told.as_str(), state)?;
    }
    let registered = stores.names(
        "SELECT request_id AS name FROM a.mesh_intent WHERE state = 'REGISTERED' \
         UNION SELECT request_id AS name FROM r.mesh_intent WHERE state = 'REGISTERED'",
    );
    match story.refused.borrow().iter().find(|request| registered.contains(*request)) {
        Some(request) => Err(format!("{request} was refused, and is registered")),
        None => Ok(()),
    }
}

/// Nothing is told, done or shown twice, nothing is put aside, and no log has a gap (invariants I-05, I-09, I-10, I-16).
fn once(stores: &Stores) -> Verdict {
    for kind in ["PaymentApproved", "PaymentCancelled"] {
        let twice = stores.names(&format!(
            "SELECT correlation_id AS name FROM p.mesh_event WHERE type LIKE '%.{kind}' \
             GROUP BY correlation_id HAVING count(*) > 1"
        ));
        same(&format!("{kind} is told once for an order"), twice, BTreeSet::new())?;
    }
    for letter in LOGS {
        let parked = stores
            .names(&format!("SELECT policy || ': ' || failure AS name FROM {letter}.mesh_parked"));
        same(&format!("nothing of {letter} is put aside"), parked, BTreeSet::new())?;
        let gaps = stores.number(&format!(
            "SELECT coalesce(max(position), 0) - count(*) FROM {letter}.mesh_event"
        ));
        same(&format!("the log of {letter} has no gap"), gaps, 0)?;
        let gaps = stores.names(&format!(
            "SELECT subject AS name FROM {letter}.mesh_event GROUP BY subject \
             HAVING max(sequence) <> count(*)"
        ));
        same(&format!("the subjects of {letter} have no gap"), gaps, BTreeSet::new())?;
    }
    // Each event of an order that my page shows is in its history, once.
    let told = stores.number(
        "SELECT (SELECT count(*) FROM a.mesh_event WHERE subject LIKE 'movieApplications/%') \
         + (SELECT count(*) FROM r.mesh_event WHERE subject LIKE 'musicalReservations/%')",
    );
    let shown = stores.number(
        "SELECT count(*) FROM y.my_progress WHERE generation = (SELECT current FROM y.mesh_view) \
         AND source IN ('homemovie.app', 'outerpark.reservation')",
    );
    same("each event of an order is in its history", shown, told)
}

/// Which generation of my page is shown.
pub(super) fn generation(data: &Path) -> i64 {
    Stores::open(data).number("SELECT current FROM y.mesh_view")
}

pub(super) fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, not {expected:?}"))
    }
}
