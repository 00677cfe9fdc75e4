//! Random calls against a model: after each step every seat is free, or held by the one who took it.

use std::collections::BTreeMap;

use futures::future::join_all;
use mesh_testing::refusal;
use proto::outerpark::musical::v1::{SeatsDeducted, SeatsReturned};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tonic::Code;

use crate::support::{House, open, reservation};

const TOTAL: i32 = 40;

/// What should be: who took how many, and who gave back.
#[derive(Debug, Default)]
struct Model {
    /// Seats, what was answered, and whether they were returned; without seats: a tombstone.
    holds: BTreeMap<String, (i32, i32, bool)>,
}

impl Model {
    fn free(&self) -> i32 {
        let held = self.holds.values().filter(|(.., returned)| !returned);
        TOTAL - held.map(|(seats, ..)| seats).sum::<i32>()
    }

    /// Takes seats: how many are left, or why not.
    fn reserve(&mut self, reservation: &str, seats: i32) -> Result<i32, &'static str> {
        let free = self.free();
        match self.holds.get(reservation) {
            Some((.., true)) => Err("RESERVATION_VOIDED"),
            Some((taken, left, false)) if *taken == seats => Ok(*left),
            Some(_) => Err("RESERVATION_MISMATCH"),
            None if seats > free => Err("NOT_ENOUGH_SEATS"),
            None => {
                self.holds.insert(reservation.to_owned(), (seats, free - seats, false));
                Ok(free - seats)
            }
        }
    }

    /// Gives back: how many, now or before.
    fn give_back(&mut self, reservation: &str) -> i32 {
        let hold = self.holds.entry(reservation.to_owned()).or_insert((0, 0, true));
        hold.2 = true;
        hold.0
    }

    /// Somebody who was heard of, or else somebody new.
    fn somebody(&self, chance: &mut StdRng) -> String {
        let known: Vec<_> = self.holds.keys().collect();
        known.choose(chance).map_or_else(reservation, |name| (*name).clone())
    }
}

async fn reserve(house: &House, model: &mut Model, musical: &str, name: &str, seats: i32) {
    let outcome = house.reserve(name, musical, seats).await;
    match model.reserve(name, seats) {
        Ok(left) => assert_eq!(outcome.expect("reserved").reservable_seats, left),
        Err(reason) => {
            assert_eq!(refusal(outcome), (Code::FailedPrecondition, reason.to_owned()));
        }
    }
}

#[tokio::test]
async fn whatever_is_asked_in_whatever_order_every_seat_is_accounted_for() {
    for seed in 1..=4 {
        let mut chance = StdRng::seed_from_u64(seed);
        let (house, mut model) = (open().await, Model::default());
        let musical = house.register(TOTAL).await;
        for step in 0..80 {
            let seats = chance.random_range(1..=12);
            match chance.random_range(0..100) {
                0..40 => reserve(&house, &mut model, &musical, &reservation(), seats).await,
                // Again: the same seats, or perhaps others.
                40..60 => {
                    let name = model.somebody(&mut chance);
                    let same = model.holds.get(&name).map_or(seats, |(seats, ..)| (*seats).max(1));
                    let seats = if chance.random_bool(0.7) { same } else { seats };
                    reserve(&house, &mut model, &musical, &name, seats).await;
                }
                60..85 => {
                    let name = model.somebody(&mut chance);
                    assert_eq!(house.give_back(&name).await, model.give_back(&name));
                }
                85..92 => {
                    let name = reservation();
                    assert_eq!(house.give_back(&name).await, model.give_back(&name));
                }
                _ => house.crash_and_restart().await,
            }
            let books = house.books(&musical);
            books.must_add_up();
            assert_eq!(books.free, model.free(), "seed {seed}, step {step}");
            let seen = house.get(&musical).await.expect("the performance");
            assert_eq!(seen.reservable_seats, model.free(), "seed {seed}, step {step}");
        }
        for (name, (seats, _, returned)) in &model.holds {
            let deducted = house.told::<SeatsDeducted>(name).await;
            assert_eq!(deducted.iter().map(|told| told.seats).sum::<i32>(), *seats);
            let given_back = house.told::<SeatsReturned>(name).await;
            assert_eq!(given_back.len(), usize::from(*returned), "told once, if at all");
        }
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_it_loses_no_seat_and_no_answer() {
    let house = open().await;
    let musical = house.register(1000).await;
    let mut kept = 0;
    for round in 0..6 {
        let reservations: Vec<_> = (0..20).map(|_| reservation()).collect();
        let before = house.books(&musical).revision;
        let calls = join_all(reservations.iter().enumerate().map(async |(i, name)| {
            house.reserve(name, &musical, 2).await.expect("reserved");
            if i % 3 == 0 {
                assert_eq!(house.give_back(name).await, 2);
            }
        }));
        let crash = async {
            // Some have been carried out by then, and some not.
            mesh_testing::eventually("some seats are taken", async || {
                (house.books(&musical).revision > before + round).then_some(())
            })
            .await;
            house.crash_and_restart().await;
            house.books(&musical).must_add_up();
        };
        tokio::join!(calls, crash);
        kept += 2 * 13;
        let books = house.books(&musical);
        assert_eq!((books.free, books.held), (1000 - kept, kept));
        for name in &reservations {
            assert_eq!(house.told::<SeatsDeducted>(name).await.len(), 1);
        }
    }
}
