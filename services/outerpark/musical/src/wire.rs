//! Between the domain and the contract.

use std::time::SystemTime;

use mesh::{Check, Error, Id, Result, Violation, revision};
use proto::outerpark::musical::v1 as api;
use proto::outerpark::musical::v1::ErrorReason;
use tonic::Code;

use crate::NAME;
use crate::domain::{
    Change, Misfit, Musical, Musicals, Refusal, Registration, SeatHold, Taken, Times, misfits,
};

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let refused = |reason: ErrorReason| Self::refused(NAME, reason.as_str_name(), &refusal);
        match &refusal {
            Refusal::NumberTaken(number) => refused(ErrorReason::MusicalNumberTaken)
                .code(Code::AlreadyExists)
                .with("musical_number", number),
            Refusal::Withdrawn(musical) => {
                refused(ErrorReason::MusicalWithdrawn).with("musical", musical)
            }
            Refusal::NotOnSale(musical) => refused(ErrorReason::NotOnSale).with("musical", musical),
            Refusal::NotEnoughSeats(musical, left) => refused(ErrorReason::NotEnoughSeats)
                .with("musical", musical)
                .with("reservable_seats", left),
            Refusal::ReservationVoided(reservation) => {
                refused(ErrorReason::ReservationVoided).with("reservation", reservation)
            }
            Refusal::ReservationMismatch(reservation) => {
                refused(ErrorReason::ReservationMismatch).with("reservation", reservation)
            }
            Refusal::TooMuchMoney(_) => Self::invalid("seats", &refusal),
            Refusal::Times(misfits) => {
                let violations = misfits.iter().map(|misfit| Violation {
                    field: field_of(*misfit).to_owned(),
                    description: misfit.to_string(),
                });
                Self::Invalid(violations.collect())
            }
        }
    }
}

const fn field_of(misfit: Misfit) -> &'static str {
    match misfit {
        Misfit::EndNotAfterStart | Misfit::EndAfterPerformance => "sales_end_time",
        Misfit::StartNotBeforePerformance => "sales_start_time",
    }
}

/// Reads a performance to register.
pub(crate) fn registration(request: &api::RegisterMusicalRequest) -> Result<Registration> {
    let mut check = Check::command(request);
    if request.musical_number < 1 {
        check.bad("musical_number", "must be more than 0");
    }
    let title = check.text("title", &request.title, 1..=200);
    let venue = check.text("venue", &request.venue, 0..=200);
    let performance = check.time("performance_time", request.performance_time);
    if request.performance_time.is_none() {
        check.bad("performance_time", "is required");
    }
    let sales_start = check.time("sales_start_time", request.sales_start_time);
    let sales_end = check.time("sales_end_time", request.sales_end_time);
    fit(&mut check, performance, sales_start, sales_end);
    let price = check.price("price_per_seat", request.price_per_seat.as_ref());
    if !(1..=100_000).contains(&request.total_seats) {
        check.bad("total_seats", "must be 1 to 100,000");
    }
    check.finish()?;

    let performance = performance.unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Registration {
        number: request.musical_number,
        title,
        venue,
        times: Times { performance, sales_start, sales_end },
        price,
        seats: request.total_seats,
    })
}

/// Reads what is to be changed of which performance.
pub(crate) fn change(request: &api::ChangeMusicalRequest) -> Result<(Id<Musicals>, Change)> {
    let mut check = Check::command(request);
    let id = check.id("name", &request.name);
    let title = check.text("title", &request.title, 0..=200);
    let venue = check.text("venue", &request.venue, 0..=200);
    let performance = check.time("performance_time", request.performance_time);
    let sales_start = check.time("sales_start_time", request.sales_start_time);
    let sales_end = check.time("sales_end_time", request.sales_end_time);
    fit(&mut check, performance, sales_start, sales_end);
    let price = request.price_per_seat.as_ref();
    let price = price.map(|price| check.price("price_per_seat", Some(price)));
    check.finish()?;

    let title = Some(title).filter(|title| !title.is_empty());
    let venue = Some(venue).filter(|venue| !venue.is_empty());
    Ok((id, Change { title, venue, performance, sales_start, sales_end, price }))
}

/// Notes the times of one request that do not fit together.
fn fit(
    check: &mut Check,
    performance: Option<SystemTime>,
    sales_start: Option<SystemTime>,
    sales_end: Option<SystemTime>,
) {
    for misfit in misfits(performance, sales_start, sales_end) {
        check.bad(field_of(misfit), misfit);
    }
}

impl From<Musical> for api::Musical {
    fn from(musical: Musical) -> Self {
        let state = if musical.withdrawn {
            api::musical::State::Withdrawn
        } else {
            api::musical::State::Registered
        };
        Self {
            name: musical.id.to_string(),
            musical_number: musical.number,
            title: musical.title,
            venue: musical.venue,
            performance_time: Some(musical.times.performance.into()),
            sales_start_time: musical.times.sales_start.map(Into::into),
            sales_end_time: musical.times.sales_end.map(Into::into),
            price_per_seat: Some(musical.price.into()),
            total_seats: musical.total_seats,
            reservable_seats: musical.reservable_seats,
            state: state.into(),
            create_time: Some(musical.created.into()),
            revision: revision(musical.id, musical.revision),
        }
    }
}

impl From<&Taken> for api::ReserveSeatsResponse {
    fn from(taken: &Taken) -> Self {
        Self { reservable_seats: taken.left, amount: Some((&taken.amount).into()) }
    }
}

impl From<&Musical> for api::MusicalRegistered {
    fn from(musical: &Musical) -> Self {
        Self {
            musical: musical.id.to_string(),
            musical_number: musical.number,
            title: musical.title.clone(),
            performance_time: Some(musical.times.performance.into()),
            price_per_seat: Some((&musical.price).into()),
            total_seats: musical.total_seats,
        }
    }
}

impl From<&Musical> for api::MusicalChanged {
    fn from(musical: &Musical) -> Self {
        Self {
            musical: musical.id.to_string(),
            title: musical.title.clone(),
            performance_time: Some(musical.times.performance.into()),
            price_per_seat: Some((&musical.price).into()),
        }
    }
}

impl From<&Musical> for api::MusicalWithdrawn {
    fn from(musical: &Musical) -> Self {
        Self { musical: musical.id.to_string() }
    }
}

/// Tells of seats that a reservation took.
pub(crate) fn deducted(hold: &SeatHold, taken: &Taken) -> api::SeatsDeducted {
    api::SeatsDeducted {
        musical: taken.musical.to_string(),
        reservation: hold.reservation.to_string(),
        seats: taken.seats,
        reservable_seats: taken.left,
    }
}

/// Tells of seats that a reservation gave back to a performance that now has `free` ones.
pub(crate) fn returned(hold: &SeatHold, free: i32) -> api::SeatsReturned {
    let musical = hold.taken.as_ref().map(|taken| taken.musical.to_string());
    api::SeatsReturned {
        musical: musical.unwrap_or_default(),
        reservation: hold.reservation.to_string(),
        seats: hold.seats(),
        reservable_seats: free,
    }
}
