//! A few films to begin with, so that a first look shows something.

use mesh::{Money, Result, Store};
use proto::homemovie::movie::v1::MovieRegistered;

use crate::domain::Movie;
use crate::store;

/// Titles and prices in won.
const FILMS: [(&str, i64); 5] = [
    ("The General", 5_000),
    ("A Trip to the Moon", 4_000),
    ("Metropolis", 9_000),
    ("Nosferatu", 7_000),
    ("The Kid", 6_000),
];

/// Puts the films into a catalogue that has none.
pub(crate) async fn fill_empty_catalogue(store: Store) -> Result<()> {
    store
        .write(|tx| {
            if !store::is_empty(tx)? {
                return Ok(());
            }
            for (title, price) in FILMS {
                let media = format!("films/{}.webm", title.to_lowercase().replace(' ', "-"));
                let mut movie =
                    Movie::register(title.to_owned(), Money::new("KRW", price), media, tx.now());
                movie.revision = tx.publish(movie.id, movie.id, &MovieRegistered::from(&movie))?;
                store::add_movie(tx, &movie)?;
            }
            Ok(())
        })
        .await
}
