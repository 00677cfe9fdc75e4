//! The musical reservation, from the first seat to the refund.

use proto::common::v1::Money;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::notice::v1::{ListNoticesRequest, Notice};
use proto::outerpark::musical::v1::Musical;
use proto::outerpark::reservation::v1::reservation_service_client::ReservationServiceClient;
use proto::outerpark::reservation::v1::{
    CancelReservationRequest, CancellationQuote, ListReservationsRequest, QuoteCancellationRequest,
    Reservation,
};
use proto::payment::v1::payment;
use rand::Rng as _;
use tonic::Code;

use super::{Stage, expect, my_page, payment_of, row_of, saw, wait_for};
use crate::client::{self, Failure, SignedIn, request_id, reserve};

/// How long the history is in the end: seats taken; reserved, paid, confirmed, told; cancelled, seats and money given
/// back, told.
const WHOLE_HISTORY: usize = 9;

/// Plays the script of the musical reservation.
pub(super) async fn play(stage: &Stage) -> Result<(), Failure> {
    let musical = register(stage).await?;
    let price = amount(musical.price_per_seat.as_ref());
    let seats = musical.total_seats;
    let registered = format!("RegisterMusical {} \"{}\"", musical.musical_number, musical.title);
    saw(1, &registered, format_args!("{seats} seats at {price}, {}", musical.name));
    let (account, customer) = client::new_customer(&stage.channel, "demo").await?;
    saw(1, "sign up, sign in", &account);

    let first = reserve_once_known(&customer, &musical.name, 10).await?;
    saw(2, "Reserve 10", format_args!("{}, {}", amount(first.amount.as_ref()), first.name));
    let second = reserve_once_known(&customer, &musical.name, 15).await?;
    saw(2, "Reserve 15", format_args!("{}, {}", amount(second.amount.as_ref()), second.name));

    let refused = reserve(&customer, &musical.name, 200)
        .await
        .err()
        .ok_or("200 of 75 seats were reserved")?;
    let reason = mesh::reason_of(&refused).unwrap_or_default();
    expect(
        reason == "NOT_ENOUGH_SEATS",
        format_args!("Reserve 200 is refused for its seats: {refused}"),
    )?;
    saw(3, "Reserve 200", format_args!("refused, {reason}: {}", refused.message()));

    let left = client::seats_left(&stage.channel, &musical.name).await?;
    expect(left == 75, format_args!("75 seats are left, not {left}"))?;
    saw(4, "GetMusical", format_args!("{left} seats left"));
    for reservation in [&first, &second] {
        let paid = payment_of(&customer, &reservation.name, payment::State::Approved).await?;
        saw(4, "payment", format_args!("APPROVED, {}", amount(paid.amount.as_ref())));
    }
    for notice in notices(&customer, 2).await? {
        saw(4, "notice", format_args!("{}: {}", notice.kind, notice.text));
    }
    for reservation in [&first, &second] {
        let row = my_page(&customer, &reservation.name, "PAYMENT_APPROVED", "APPROVED").await?;
        saw(4, "my page", format_args!("\"{}\", {} seats, {}", row.title, row.quantity, row.state));
    }

    let quote = quote(&customer, &first.name).await?;
    let (refund, fee) = (amount(quote.refund.as_ref()), amount(quote.fee.as_ref()));
    saw(5, "QuoteCancellation of the first", format_args!("{refund} given back, {fee} kept"));
    cancel(&customer, &first.name, quote.quote).await?;
    let listed = ReservationServiceClient::new(customer.clone())
        .list_reservations(ListReservationsRequest::default())
        .await?
        .into_inner()
        .reservations;
    let names: Vec<_> = listed.iter().map(|reservation| reservation.name.as_str()).collect();
    expect(names == [&second.name], format_args!("only the second is listed, not {names:?}"))?;
    saw(5, "CancelReservation, then ListReservations", format_args!("only {}", second.name));

    let left = wait_for("85 seats are left", || async {
        let left = client::seats_left(&stage.channel, &musical.name).await?;
        Ok((left == 85).then_some(left))
    })
    .await?;
    saw(6, "GetMusical", format_args!("{left} seats left"));
    let refunded = payment_of(&customer, &first.name, payment::State::Cancelled).await?;
    saw(
        6,
        "its payment",
        format_args!("CANCELLED, {} given back", amount(refunded.refunded_amount.as_ref())),
    );
    let told = notices(&customer, 3).await?;
    let last = told.iter().find(|notice| notice.kind == "cancelled" && notice.order == first.name);
    saw(6, "a third notice", &last.ok_or("no notice says that the first is cancelled")?.text);
    my_page(&customer, &first.name, "CANCELLED", "CANCELLED").await?;
    let row = wait_for("my page knows the whole history", || async {
        Ok(row_of(&customer, &first.name).await?.filter(|row| row.history.len() == WHOLE_HISTORY))
    })
    .await?;
    saw(
        6,
        "its row in my page",
        format_args!("{}, payment {}; what happened:", row.state, row.payment_state),
    );
    for progress in row.history {
        saw(6, &format!("  {}", progress.event), progress.source);
    }
    Ok(())
}

/// Puts a performance on sale, as the admin.
async fn register(stage: &Stage) -> Result<Musical, Failure> {
    // A running system may have been played against before.
    let number =
        if stage.private.is_some() { 1 } else { mesh::rng().random_range(2..1_000_000_000) };
    client::register_musical(&stage.admin().await?, number, 100).await
}

/// Reserves, as soon as the reservation desk has heard of the performance.
async fn reserve_once_known(
    customer: &SignedIn,
    musical: &str,
    seats: i32,
) -> Result<Reservation, Failure> {
    wait_for("the reservation desk knows the performance", || async {
        match reserve(customer, musical, seats).await {
            Ok(reservation) => Ok(Some(reservation)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    })
    .await
}

/// Waits until the customer was told so many things; the newest first.
async fn notices(customer: &SignedIn, count: usize) -> Result<Vec<Notice>, Failure> {
    wait_for(&format!("{count} notices"), || async {
        let answer = NoticeServiceClient::new(customer.clone())
            .list_notices(ListNoticesRequest::default())
            .await?;
        let notices = answer.into_inner().notices;
        expect(
            notices.len() <= count,
            format_args!("{} notices where there should be {count}", notices.len()),
        )?;
        Ok((notices.len() == count).then_some(notices))
    })
    .await
}

async fn quote(customer: &SignedIn, reservation: &str) -> Result<CancellationQuote, Failure> {
    let request = QuoteCancellationRequest { name: reservation.to_owned() };
    let answer =
        ReservationServiceClient::new(customer.clone()).quote_cancellation(request).await?;
    answer.into_inner().cancellation_quote.ok_or_else(|| "an answer without a quote".into())
}

async fn cancel(customer: &SignedIn, reservation: &str, quote: String) -> Result<(), Failure> {
    let request =
        CancelReservationRequest { request_id: request_id(), name: reservation.to_owned(), quote };
    ReservationServiceClient::new(customer.clone()).cancel_reservation(request).await?;
    Ok(())
}

/// Money, for people.
fn amount(money: Option<&Money>) -> String {
    money.map_or_else(
        || "nothing".to_owned(),
        |money| format!("{} {}", money.minor_units, money.currency_code),
    )
}
