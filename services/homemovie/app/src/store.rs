//! The tables of applications and of what is known of films.

use diesel::prelude::*;
use mesh::{
    Accounts, Conn, Error, Id, Money, Page, Result, insert, micros, on_engine, time_of, update,
};

use crate::domain::{Application, Film, MovieApplications, Movies, State};

diesel::table! {
    movie_application (name) {
        name -> Text,
        customer -> Text,
        movie -> Text,
        movie_title -> Text,
        currency -> Text,
        price -> BigInt,
        state -> Text,
        create_time -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    film (name) {
        name -> Text,
        title -> Text,
        currency -> Text,
        price -> BigInt,
        withdrawn -> Bool,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = movie_application, treat_none_as_default_value = false)]
struct Row {
    name: String,
    customer: String,
    movie: String,
    movie_title: String,
    currency: String,
    price: i64,
    state: String,
    create_time: i64,
    revision: i64,
}

impl From<&Application> for Row {
    fn from(application: &Application) -> Self {
        Self {
            name: application.id.to_string(),
            customer: application.customer.to_string(),
            movie: application.movie.to_string(),
            movie_title: application.movie_title.clone(),
            currency: application.price.currency.clone(),
            price: application.price.minor_units,
            state: word(application.state).to_owned(),
            create_time: micros(application.created),
            revision: application.revision,
        }
    }
}

impl TryFrom<Row> for Application {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            customer: row.customer.parse().map_err(Error::internal)?,
            movie: row.movie.parse().map_err(Error::internal)?,
            movie_title: row.movie_title,
            price: Money::new(&row.currency, row.price),
            state: state(&row.state)?,
            created: time_of(row.create_time),
            revision: row.revision,
        })
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Picked => "MOVIE_PICKED",
        State::Ordered => "MOVIE_ORDERED",
        State::CancelAsked => "MOVIE_APP_CANCELLED",
        State::Watched => "MOVIE_WATCHED",
        State::Cancelled => "MOVIE_CANCELLED",
    }
}

fn state(text: &str) -> Result<State> {
    [State::Picked, State::Ordered, State::CancelAsked, State::Watched, State::Cancelled]
        .into_iter()
        .find(|state| word(*state) == text)
        .ok_or_else(|| Error::internal(format!("an application cannot be {text}")))
}

/// A new application.
pub(crate) fn add(conn: &mut Conn, application: &Application) -> Result<()> {
    insert(movie_application::table, Row::from(application)).execute(conn)?;
    Ok(())
}

/// Where an application stands now. Whose it is and for what never changes, and the index of that is left alone.
pub(crate) fn save(conn: &mut Conn, application: &Application) -> Result<()> {
    let row = movie_application::name.eq(application.id.to_string());
    let values = (
        movie_application::state.eq(word(application.state)),
        movie_application::revision.eq(application.revision),
    );
    update(movie_application::table, row, values).execute(conn)?;
    Ok(())
}

/// An application, whoever's it is: for policies.
pub(crate) fn load(conn: &mut Conn, id: Id<MovieApplications>) -> Result<Application> {
    let row = on_engine!(conn, |engine| movie_application::table
        .find(id.to_string())
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// An application of this customer.
pub(crate) fn own(
    conn: &mut Conn,
    customer: Id<Accounts>,
    id: Id<MovieApplications>,
) -> Result<Application> {
    let row = on_engine!(conn, |engine| movie_application::table
        .find(id.to_string())
        .filter(movie_application::customer.eq(customer.to_string()))
        .select(Row::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// A page of this customer's applications, newest first.
pub(crate) fn list(
    conn: &mut Conn,
    customer: Id<Accounts>,
    page: &Page,
) -> Result<Vec<Application>> {
    let rows: Vec<Row> = on_engine!(conn, |engine| movie_application::table
        .filter(movie_application::customer.eq(customer.to_string()))
        .filter(movie_application::name.lt(page.before()))
        .order(movie_application::name.desc())
        .limit(page.limit())
        .select(Row::as_select())
        .load(engine))?;
    rows.into_iter().map(Application::try_from).collect()
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = film, treat_none_as_default_value = false)]
struct FilmRow {
    name: String,
    title: String,
    currency: String,
    price: i64,
    withdrawn: bool,
}

/// A film that is new in the catalogue.
pub(crate) fn add_film(conn: &mut Conn, film: Film) -> Result<()> {
    let row = FilmRow {
        name: film.id.to_string(),
        title: film.title,
        currency: film.price.currency,
        price: film.price.minor_units,
        withdrawn: film.withdrawn,
    };
    diesel::insert_into(film::table).values(row).execute(conn)?;
    Ok(())
}

/// What a film costs from now on.
pub(crate) fn reprice_film(conn: &mut Conn, id: Id<Movies>, price: Money) -> Result<()> {
    let values = (film::currency.eq(price.currency), film::price.eq(price.minor_units));
    diesel::update(film::table.find(id.to_string())).set(values).execute(conn)?;
    Ok(())
}

/// A film that is not for sale any more.
pub(crate) fn withdraw_film(conn: &mut Conn, id: Id<Movies>) -> Result<()> {
    diesel::update(film::table.find(id.to_string())).set(film::withdrawn.eq(true)).execute(conn)?;
    Ok(())
}

/// What is known of a film.
pub(crate) fn film(conn: &mut Conn, id: Id<Movies>) -> Result<Film> {
    let row = on_engine!(conn, |engine| film::table
        .find(id.to_string())
        .select(FilmRow::as_select())
        .first(engine)
        .optional())?;
    let row = row.ok_or_else(|| Error::NotFound(id.to_string()))?;
    Ok(Film {
        id,
        title: row.title,
        price: Money::new(&row.currency, row.price),
        withdrawn: row.withdrawn,
    })
}
