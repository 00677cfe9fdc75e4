//! The free seats, live.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use mesh_testing::{bad_fields, request_id};
use proto::outerpark::musical::v1::musical_service_client::MusicalServiceClient;
use proto::outerpark::musical::v1::{WatchMusicalRequest, WatchMusicalResponse};
use rand::Rng as _;
use tonic::{Code, Status, Streaming};

use crate::support::{House, NAME, open, reservation};

async fn watch(house: &House, musical: &str) -> Result<Streaming<WatchMusicalResponse>, Status> {
    let request = WatchMusicalRequest { name: musical.to_owned() };
    let stream = MusicalServiceClient::new(house.mesh.stranger()).watch_musical(request).await?;
    Ok(stream.into_inner())
}

/// The next message: free seats, and of how many.
async fn next(stream: &mut Streaming<WatchMusicalResponse>) -> (i32, i32) {
    let patience = Duration::from_secs(60);
    let message =
        tokio::time::timeout(patience, stream.message()).await.expect("a message in time");
    let message = message.expect("a message").expect("a stream that does not end");
    (message.reservable_seats, message.total_seats)
}

#[tokio::test]
async fn the_free_seats_are_told_at_once_and_whenever_they_change() {
    let house = open().await;
    let (musical, other, mine) =
        (house.register(30).await, house.register(10).await, reservation());
    let mut stream = watch(&house, &musical).await.expect("a stream");
    assert_eq!(next(&mut stream).await, (30, 30));
    house.reserve(&mine, &musical, 10).await.expect("reserved");
    assert_eq!(next(&mut stream).await, (20, 30));
    // Another performance's seats are nothing that is told.
    house.reserve(&reservation(), &other, 5).await.expect("reserved");
    house.give_back(&mine).await;
    assert_eq!(next(&mut stream).await, (30, 30));
    let mut late = watch(&house, &other).await.expect("a stream");
    assert_eq!(next(&mut late).await, (5, 10));
}

#[tokio::test]
async fn g18_at_most_ten_messages_a_second_come_of_a_storm_and_surely_the_last() {
    let house = open().await;
    let musical = house.register(1000).await;
    let mut streams = Vec::new();
    let begun = Instant::now();
    for _ in 0..3 {
        streams.push(watch(&house, &musical).await.expect("a stream"));
    }
    let storm = stream::iter(0..300).for_each_concurrent(8, async |_| {
        let reservation = reservation();
        house.reserve(&reservation, &musical, 2).await.expect("reserved");
        if mesh::rng().random() {
            house.give_back(&reservation).await;
        }
    });
    // What surely is the last: all but the last seats are sold to one reservation, once the storm is over.
    let end = async {
        storm.await;
        let free = house.books(&musical).free;
        house.reserve(&reservation(), &musical, free - 7).await.expect("reserved");
    };
    let listen = streams.iter_mut().map(async |stream| {
        let mut messages = 1;
        while next(stream).await != (7, 1000) {
            messages += 1;
        }
        (messages, begun.elapsed().as_millis())
    });
    let (told, ()) = tokio::join!(join_all(listen), end);
    for (messages, elapsed) in told {
        assert!((2..=elapsed / 100 + 1).contains(&messages), "{messages} in {elapsed} ms");
    }
    assert_eq!(house.books(&musical).free, 7);
}

#[tokio::test]
async fn a_stream_ends_with_a_hint_when_the_context_stops_and_goes_on_after_it() {
    let house = open().await;
    let musical = house.register(30).await;
    for crash in [false, true] {
        let mut stream = watch(&house, &musical).await.expect("a stream");
        assert_eq!(next(&mut stream).await, (30, 30));
        if crash {
            house.mesh.mesh.crash(NAME).await;
        } else {
            house.mesh.mesh.stop(NAME).await;
        }
        let end = stream.message().await.expect_err("it ends");
        assert_eq!(end.code(), Code::Unavailable);
        house.restart().await;
    }
    let mut stream = watch(&house, &musical).await.expect("a stream");
    assert_eq!(next(&mut stream).await, (30, 30));
}

#[tokio::test]
async fn a_performance_that_is_not_there_cannot_be_watched() {
    let house = open().await;
    let missing = format!("musicals/{}", request_id());
    assert_eq!(watch(&house, &missing).await.expect_err("refused").code(), Code::NotFound);
    assert_eq!(bad_fields(watch(&house, "musicals/1").await), ["name"]);
}
