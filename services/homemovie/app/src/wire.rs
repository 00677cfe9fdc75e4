//! Between the domain and the contract.

use std::time::SystemTime;

use mesh::watch::Watched;
use mesh::{Error, Money, Result, revision};
use proto::homemovie::app::v1 as api;
use proto::homemovie::app::v1::ErrorReason;
use proto::mesh::v1::Event;

use crate::NAME;
use crate::domain::{Application, Refusal, State};

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let refused = |reason: ErrorReason| Self::refused(NAME, reason.as_str_name(), &refusal);
        match &refusal {
            Refusal::MovieWithdrawn(movie) => {
                refused(ErrorReason::MovieWithdrawn).with("movie", movie)
            }
            Refusal::AlreadyWatched(id) => {
                refused(ErrorReason::AlreadyWatched).with("movie_application", id)
            }
            Refusal::AlreadyCancelled(id) => {
                refused(ErrorReason::AlreadyCancelled).with("movie_application", id)
            }
            Refusal::PaymentDeclined(id) => {
                refused(ErrorReason::PaymentDeclined).with("movie_application", id)
            }
        }
    }
}

impl From<State> for api::movie_application::State {
    fn from(state: State) -> Self {
        match state {
            State::Picked => Self::MoviePicked,
            State::Ordered => Self::MovieOrdered,
            State::CancelAsked => Self::MovieAppCancelled,
            State::Watched => Self::MovieWatched,
            State::Cancelled => Self::MovieCancelled,
        }
    }
}

impl From<&Application> for api::MovieApplication {
    fn from(application: &Application) -> Self {
        Self {
            name: application.id.to_string(),
            customer: application.customer.to_string(),
            movie: application.movie.to_string(),
            movie_title: application.movie_title.clone(),
            price: Some((&application.price).into()),
            state: api::movie_application::State::from(application.state).into(),
            create_time: Some(application.created.into()),
            revision: revision(application.id, application.revision),
        }
    }
}

/// Reads back what an intent has kept: a PICKED application that nobody has heard of.
impl TryFrom<api::MovieApplication> for Application {
    type Error = Error;

    fn try_from(order: api::MovieApplication) -> Result<Self> {
        let created = SystemTime::try_from(order.create_time.unwrap_or_default());
        Ok(Self {
            id: order.name.parse().map_err(Error::internal)?,
            customer: order.customer.parse().map_err(Error::internal)?,
            movie: order.movie.parse().map_err(Error::internal)?,
            movie_title: order.movie_title,
            price: Money::from(order.price.unwrap_or_default()),
            state: State::Picked,
            created: created.map_err(Error::internal)?,
            revision: 0,
        })
    }
}

impl From<&Application> for api::MoviePicked {
    fn from(application: &Application) -> Self {
        Self {
            movie_application: application.id.to_string(),
            customer: application.customer.to_string(),
            movie: application.movie.to_string(),
            movie_title: application.movie_title.clone(),
            price: Some((&application.price).into()),
        }
    }
}

impl From<&Application> for api::MovieAppCancelled {
    fn from(application: &Application) -> Self {
        Self {
            movie_application: application.id.to_string(),
            customer: application.customer.to_string(),
            movie: application.movie.to_string(),
        }
    }
}

impl From<&Application> for api::MovieApplicationAdvanced {
    fn from(application: &Application) -> Self {
        Self {
            movie_application: application.id.to_string(),
            customer: application.customer.to_string(),
            state: api::movie_application::State::from(application.state).into(),
        }
    }
}

/// An application that is followed.
#[derive(Debug, Clone)]
pub(crate) struct Followed(pub(crate) Application);

impl Watched for Followed {
    type Answer = api::WatchMovieApplicationResponse;

    fn subject(&self) -> String {
        self.0.id.to_string()
    }

    fn sequence(&self) -> u64 {
        self.0.revision.unsigned_abs()
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        self.0.state = match event.r#type.rsplit('.').next() {
            Some("MoviePicked") => State::Picked,
            Some("MovieAppCancelled") => State::CancelAsked,
            _ => advanced_to(event)?,
        };
        self.0.revision = i64::try_from(event.sequence).map_err(Error::internal)?;
        Ok(())
    }

    fn is_final(&self) -> bool {
        self.0.state.is_final()
    }

    fn tell(&self) -> Self::Answer {
        api::WatchMovieApplicationResponse {
            movie_application: Some((&self.0).into()),
            r#final: self.is_final(),
        }
    }

    fn heartbeat() -> Self::Answer {
        api::WatchMovieApplicationResponse::default()
    }
}

fn advanced_to(event: &Event) -> Result<State> {
    let advanced: api::MovieApplicationAdvanced = mesh::events::payload(event)?;
    match advanced.state() {
        api::movie_application::State::MovieOrdered => Ok(State::Ordered),
        api::movie_application::State::MovieWatched => Ok(State::Watched),
        api::movie_application::State::MovieCancelled => Ok(State::Cancelled),
        other => {
            Err(Error::internal(format!("no application advances to {}", other.as_str_name())))
        }
    }
}
