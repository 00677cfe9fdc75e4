//! The tables of films and purchases.

use diesel::prelude::*;
use mesh::{
    Accounts, Conn, Error, Id, Money, Page, Result, insert, micros, on_engine, time_of, update,
};

use crate::domain::{Movie, MovieApplications, Movies, Purchase, PurchaseState};

diesel::table! {
    movie (name) {
        name -> Text,
        title -> Text,
        currency -> Text,
        price -> BigInt,
        media -> Text,
        state -> Text,
        create_time -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    movie_purchase (name) {
        name -> Text,
        application -> Text,
        customer -> Text,
        movie -> Text,
        state -> Text,
        create_time -> BigInt,
        revision -> BigInt,
    }
}

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = movie, primary_key(name), treat_none_as_default_value = false)]
struct MovieRow {
    name: String,
    title: String,
    currency: String,
    price: i64,
    media: String,
    state: String,
    create_time: i64,
    revision: i64,
}

const FOR_SALE: &str = "REGISTERED";
const WITHDRAWN: &str = "WITHDRAWN";

impl From<&Movie> for MovieRow {
    fn from(movie: &Movie) -> Self {
        Self {
            name: movie.id.to_string(),
            title: movie.title.clone(),
            currency: movie.price.currency.clone(),
            price: movie.price.minor_units,
            media: movie.media.clone(),
            state: if movie.withdrawn { WITHDRAWN } else { FOR_SALE }.to_owned(),
            create_time: micros(movie.created),
            revision: movie.revision,
        }
    }
}

impl TryFrom<MovieRow> for Movie {
    type Error = Error;

    fn try_from(row: MovieRow) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            title: row.title,
            price: Money::new(&row.currency, row.price),
            media: row.media,
            withdrawn: row.state == WITHDRAWN,
            created: time_of(row.create_time),
            revision: row.revision,
        })
    }
}

/// A new film.
pub(crate) fn add_movie(conn: &mut Conn, movie: &Movie) -> Result<()> {
    diesel::insert_into(movie::table).values(MovieRow::from(movie)).execute(conn)?;
    Ok(())
}

/// A film as it is now.
pub(crate) fn save_movie(conn: &mut Conn, movie: &Movie) -> Result<()> {
    diesel::update(movie::table.find(movie.id.to_string()))
        .set(MovieRow::from(movie))
        .execute(conn)?;
    Ok(())
}

/// A film, for sale or not.
pub(crate) fn movie(conn: &mut Conn, id: Id<Movies>) -> Result<Movie> {
    let row = on_engine!(conn, |engine| movie::table
        .find(id.to_string())
        .select(MovieRow::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// A page of the films that are for sale, newest first.
pub(crate) fn movies(conn: &mut Conn, page: &Page) -> Result<Vec<Movie>> {
    let rows: Vec<MovieRow> = on_engine!(conn, |engine| movie::table
        .filter(movie::state.eq(FOR_SALE))
        .filter(movie::name.lt(page.before()))
        .order(movie::name.desc())
        .limit(page.limit())
        .select(MovieRow::as_select())
        .load(engine))?;
    rows.into_iter().map(Movie::try_from).collect()
}

/// Whether there is no film at all.
pub(crate) fn is_empty(conn: &mut Conn) -> Result<bool> {
    let count: i64 = on_engine!(conn, |engine| movie::table.count().get_result(engine))?;
    Ok(count == 0)
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = movie_purchase, treat_none_as_default_value = false)]
struct PurchaseRow {
    name: String,
    application: String,
    customer: String,
    movie: String,
    state: String,
    create_time: i64,
    revision: i64,
}

fn word(state: PurchaseState) -> &'static str {
    match state {
        PurchaseState::Ordered => "MOVIE_ORDERED",
        PurchaseState::Watched => "MOVIE_WATCHED",
        PurchaseState::Cancelled => "MOVIE_CANCELLED",
    }
}

impl From<&Purchase> for PurchaseRow {
    fn from(purchase: &Purchase) -> Self {
        Self {
            name: purchase.id.to_string(),
            application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
            movie: purchase.movie.to_string(),
            state: word(purchase.state).to_owned(),
            create_time: micros(purchase.created),
            revision: purchase.revision,
        }
    }
}

impl TryFrom<PurchaseRow> for Purchase {
    type Error = Error;

    fn try_from(row: PurchaseRow) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            application: row.application.parse().map_err(Error::internal)?,
            customer: row.customer.parse().map_err(Error::internal)?,
            movie: row.movie.parse().map_err(Error::internal)?,
            state: match row.state.as_str() {
                "MOVIE_ORDERED" => PurchaseState::Ordered,
                "MOVIE_WATCHED" => PurchaseState::Watched,
                "MOVIE_CANCELLED" => PurchaseState::Cancelled,
                other => return Err(Error::internal(format!("a purchase cannot be {other}"))),
            },
            created: time_of(row.create_time),
            revision: row.revision,
        })
    }
}

/// A new purchase.
pub(crate) fn add_purchase(conn: &mut Conn, purchase: &Purchase) -> Result<()> {
    insert(movie_purchase::table, PurchaseRow::from(purchase)).execute(conn)?;
    Ok(())
}

/// Where a purchase stands now. Whose it is and for what never changes, and the index of that is left alone.
pub(crate) fn save_purchase(conn: &mut Conn, purchase: &Purchase) -> Result<()> {
    let row = movie_purchase::name.eq(purchase.id.to_string());
    let values = (
        movie_purchase::state.eq(word(purchase.state)),
        movie_purchase::revision.eq(purchase.revision),
    );
    update(movie_purchase::table, row, values).execute(conn)?;
    Ok(())
}

/// What an application bought, if anything yet.
pub(crate) fn purchase_of(
    conn: &mut Conn,
    application: Id<MovieApplications>,
) -> Result<Option<Purchase>> {
    let row = on_engine!(conn, |engine| movie_purchase::table
        .filter(movie_purchase::application.eq(application.to_string()))
        .select(PurchaseRow::as_select())
        .first(engine)
        .optional())?;
    row.map(Purchase::try_from).transpose()
}

/// What an application of this customer bought.
pub(crate) fn purchase(
    conn: &mut Conn,
    customer: Id<Accounts>,
    application: Id<MovieApplications>,
) -> Result<Purchase> {
    let row = on_engine!(conn, |engine| movie_purchase::table
        .filter(movie_purchase::application.eq(application.to_string()))
        .filter(movie_purchase::customer.eq(customer.to_string()))
        .select(PurchaseRow::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(application.to_string()))?.try_into()
}
