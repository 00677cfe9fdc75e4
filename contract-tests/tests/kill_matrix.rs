//! The kill matrix: each context of each system dies at each step that it passes, at the first, the second and the third
//! passing, is started again, and all that must hold holds.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use contract_tests::homemovie::Homemovie;
use contract_tests::mortal::{Death, Expiring, Mortal, die, passings};
use contract_tests::outerpark::Outerpark;
use mesh::chaos::SITES;

/// At how many passings of a step a context dies.
const PASSINGS: u32 = 3;

#[tokio::test]
async fn f_01_wherever_somebody_dies_no_film_is_lost_or_doubled() {
    everybody_dies::<Homemovie>(|_| true).await;
}

#[tokio::test]
async fn f_01_wherever_somebody_dies_no_seat_is_lost_or_sold_twice() {
    Box::pin(everybody_dies::<Outerpark>(|_| true)).await;
}

#[tokio::test]
async fn f_01_wherever_the_desk_dies_a_hold_expires_once() {
    let of_the_desk = |context: &str| context == "outerpark.reservation";
    everybody_dies::<Expiring>(of_the_desk).await;
}

#[tokio::test]
async fn f_01_every_step_is_passed_by_some_context() {
    let passed = [passings::<Homemovie>().await, passings::<Outerpark>().await];
    let passed: BTreeSet<_> = passed.iter().flatten().map(|((_, site), _)| *site).collect();
    let never: Vec<_> = SITES.iter().filter(|site| !passed.contains(*site)).collect();
    assert!(never.is_empty(), "nobody dies at these steps, so nothing is known of them: {never:?}");
}

/// Whoever is `mortal` dies at each step.
async fn everybody_dies<M: Mortal>(mortal: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    let passed = passings::<M>().await;
    let mortals = passed.keys().filter(|(context, _)| mortal(context));
    let deaths: Vec<Death> = mortals
        .flat_map(|(context, site)| (1..=PASSINGS).map(move |n| (context.clone(), *site, n)))
        .collect();
    let outcomes = die::<M>(&deaths).await;
    print(&outcomes);
    let survived = outcomes.values().filter(|outcome| outcome.is_ok()).count();
    println!("{}: {survived} of {} in {:.0?}", M::NAME, outcomes.len(), begun.elapsed());
    assert_eq!(survived, deaths.len(), "see the table");
}

/// A line a context and step, a column a passing.
fn print(outcomes: &BTreeMap<Death, Result<(), String>>) {
    let mut lines: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for ((context, site, _), outcome) in outcomes {
        let cell = if outcome.is_ok() { "  ok" } else { "  XX" };
        lines.entry((context, site)).or_default().push_str(cell);
    }
    for ((context, site), cells) in lines {
        println!("{context:24}{site:24}{cells}");
    }
    for ((context, site, n), outcome) in outcomes {
        if let Err(what) = outcome {
            println!("{context}, {site}, passing {n}: {what}");
        }
    }
}
