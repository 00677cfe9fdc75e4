//! Chance: the system's, or the simulation's where a test runs in one.

use rand::{CryptoRng, RngCore};

/// Where everything random comes from.
pub fn rng() -> Chance {
    Chance(())
}

/// A source of chance, good enough for secrets.
#[derive(Debug)]
pub struct Chance(());

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        draw(|rng| rng.next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        draw(|rng| rng.next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        draw(|rng| rng.fill_bytes(bytes));
    }
}

impl CryptoRng for Chance {}

#[cfg(feature = "chaos")]
fn draw<T>(mut draw: impl FnMut(&mut dyn RngCore) -> T) -> T {
    match crate::world::with_chance(|rng| draw(rng)) {
        Some(drawn) => drawn,
        None => of_the_system(draw),
    }
}

#[cfg(not(feature = "chaos"))]
use of_the_system as draw;

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn of_the_system<T>(mut draw: impl FnMut(&mut dyn RngCore) -> T) -> T {
    draw(&mut rand::rng())
}
