//! Between the domain and the contract.

use mesh::{Error, revision};
use proto::homemovie::movie::v1 as api;
use proto::homemovie::movie::v1::ErrorReason;

use crate::NAME;
use crate::domain::{Movie, Purchase, PurchaseState, Refusal};

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let refused = |reason: ErrorReason| Self::refused(NAME, reason.as_str_name(), &refusal);
        match &refusal {
            Refusal::MovieWithdrawn(movie) => {
                refused(ErrorReason::MovieWithdrawn).with("movie", movie)
            }
            Refusal::PurchaseCancelled(application) => {
                refused(ErrorReason::PurchaseCancelled).with("movie_application", application)
            }
        }
    }
}

impl From<Movie> for api::Movie {
    fn from(movie: Movie) -> Self {
        let state = if movie.withdrawn {
            api::movie::State::Withdrawn
        } else {
            api::movie::State::Registered
        };
        Self {
            name: movie.id.to_string(),
            title: movie.title,
            price: Some(movie.price.into()),
            media: movie.media,
            state: state.into(),
            create_time: Some(movie.created.into()),
            revision: revision(movie.id, movie.revision),
        }
    }
}

impl From<Purchase> for api::MoviePurchase {
    fn from(purchase: Purchase) -> Self {
        let state = match purchase.state {
            PurchaseState::Ordered => api::movie_purchase::State::MovieOrdered,
            PurchaseState::Watched => api::movie_purchase::State::MovieWatched,
            PurchaseState::Cancelled => api::movie_purchase::State::MovieCancelled,
        };
        Self {
            name: purchase.id.to_string(),
            movie_application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
            movie: purchase.movie.to_string(),
            state: state.into(),
            create_time: Some(purchase.created.into()),
            revision: revision(purchase.id, purchase.revision),
        }
    }
}

impl From<&Movie> for api::MovieRegistered {
    fn from(movie: &Movie) -> Self {
        Self {
            movie: movie.id.to_string(),
            title: movie.title.clone(),
            price: Some((&movie.price).into()),
        }
    }
}

impl From<&Movie> for api::MovieRepriced {
    fn from(movie: &Movie) -> Self {
        Self { movie: movie.id.to_string(), price: Some((&movie.price).into()) }
    }
}

impl From<&Movie> for api::MovieWithdrawn {
    fn from(movie: &Movie) -> Self {
        Self { movie: movie.id.to_string() }
    }
}

impl From<&Purchase> for api::MovieOrdered {
    fn from(purchase: &Purchase) -> Self {
        Self {
            movie_purchase: purchase.id.to_string(),
            movie_application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
            movie: purchase.movie.to_string(),
        }
    }
}

impl From<&Purchase> for api::MovieWatched {
    fn from(purchase: &Purchase) -> Self {
        Self {
            movie_purchase: purchase.id.to_string(),
            movie_application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
        }
    }
}

impl From<&Purchase> for api::MovieCancelled {
    fn from(purchase: &Purchase) -> Self {
        Self {
            movie_purchase: purchase.id.to_string(),
            movie_application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
        }
    }
}

impl From<&Purchase> for api::MovieCancelRefused {
    fn from(purchase: &Purchase) -> Self {
        Self {
            movie_purchase: purchase.id.to_string(),
            movie_application: purchase.application.to_string(),
            customer: purchase.customer.to_string(),
        }
    }
}
