//! What a customer sees, whatever order the events come in.

mod stand_ins;

use std::slice::from_ref;
use std::time::{Duration, Instant};

use mesh::Error;
use mesh_testing::{eventually, refusal, request_id};
use proto::mypage::v1 as api;
use stand_ins::{Order, SOURCES, Stage, State, events, find, list, page_of, wanted, won};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn my_1_it_answers_with_every_other_context_stopped() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = stage.whole_order(&customer, "Parasite").await;
    let seen = stage.settled(&customer, &order, 4).await;

    stage.stop_sources().await;
    assert_eq!(find(&customer, &order).await, Some(seen.clone()));
    assert_eq!(list(&customer).await, from_ref(&seen));

    stage.test.mesh.stop("mypage").await;
    stage.test.restart("mypage").await;
    assert_eq!(find(&customer, &order).await, Some(seen.clone()), "after a restart");
    assert_eq!(list(&customer).await, from_ref(&seen));
    let everything = api::WatchMyOrdersRequest::default();
    let mut stream = page_of(&customer).watch_my_orders(everything).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().my_orders, [seen]);
}

#[tokio::test(flavor = "multi_thread")]
async fn my_3_a_customer_never_sees_anothers_row() {
    let stage = Stage::set().await;
    let (mine, other, admin) = (stage.test.customer(), stage.test.customer(), stage.test.admin());
    let order = stage.whole_order(&mine, "Parasite").await;
    let theirs = stage.whole_order(&admin, "Oldboy").await;
    stage.settled(&mine, &order, 4).await;
    let seen = stage.settled(&admin, &theirs, 4).await;

    for stranger in [&other, &admin] {
        let refused = page_of(stranger).get_my_order(wanted(&order)).await;
        assert_eq!(refusal(refused), (Code::NotFound, "NOT_FOUND".to_owned()));
        // Not even whether the view has heard of it.
        let request =
            api::ListMyOrdersRequest { min_revision: order.revision(1), ..Default::default() };
        assert!(page_of(stranger).list_my_orders(request).await.unwrap().into_inner().stale);
    }
    assert_eq!(list(&other).await, []);
    assert_eq!(list(&admin).await, from_ref(&seen));
    for (watcher, sees) in [(&other, Vec::new()), (&admin, vec![seen])] {
        let everything = api::WatchMyOrdersRequest::default();
        let mut stream = page_of(watcher).watch_my_orders(everything).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().my_orders, sees);
    }

    let unknown = page_of(&mine).get_my_order(wanted(&Order::of(&mine))).await;
    assert_eq!(refusal(unknown), (Code::NotFound, "NOT_FOUND".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_signed_in_or_no_admin_is_refused() {
    let stage = Stage::set().await;
    let mut stranger = api::my_page_service_client::MyPageServiceClient::new(stage.test.stranger());
    assert_eq!(
        refusal(stranger.list_my_orders(api::ListMyOrdersRequest::default()).await).0,
        Code::Unauthenticated
    );
    let rebuild = api::RebuildViewRequest { request_id: request_id() };
    assert_eq!(
        refusal(page_of(&stage.test.customer()).rebuild_view(rebuild).await).0,
        Code::PermissionDenied
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g21_an_order_appears_with_its_own_first_event_not_before() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let never = Order::of(&customer);
    stage.approve(&never).await;
    stage.refund(&never, 50_000).await;
    let tombstone = Order::of(&customer);
    stage.refund(&tombstone, 0).await;
    let declined = Order::of(&customer);
    stage.decline(&declined).await;
    let order = Order::of(&customer);
    stage.approve(&order).await;
    stage.order_film(&order).await;
    eventually("six hidden events", || async { (stage.dump().len() == 4 + 6).then_some(()) }).await;
    assert_eq!(list(&customer).await, []);
    assert_eq!(find(&customer, &order).await, None);

    stage.pick(&order, "Parasite").await;
    let seen = stage.settled(&customer, &order, 3).await;
    assert_eq!((seen.payment_state.as_str(), seen.state.as_str()), ("APPROVED", "MOVIE_PICKED"));
    assert_eq!(list(&customer).await, [seen], "what was never registered stays hidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_late_and_repeated_events_never_move_a_row_back() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = Order::of(&customer);
    // What comes first: the ends. Then everything that leads to them.
    stage.refund(&order, 0).await;
    stage.approve(&order).await;
    stage.advance(&order, State::MovieCancelled).await;
    stage.ask_to_cancel(&order).await;
    stage.advance(&order, State::MovieOrdered).await;
    stage.pick(&order, "Parasite").await;
    stage.pick(&order, "Oldboy").await;
    stage.advance(&order, State::MovieWatched).await;

    let seen = stage.settled(&customer, &order, 8).await;
    assert_eq!(seen.state, "MOVIE_CANCELLED");
    assert_eq!(seen.payment_state, "CANCELLED");
    assert_eq!(seen.title, "Parasite");
    let last = seen
        .history
        .iter()
        .map(|progress| progress.time.unwrap())
        .max_by_key(|time| (time.seconds, time.nanos));
    assert_eq!(seen.update_time, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_log_that_is_told_again_changes_nothing() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    for title in ["Parasite", "Oldboy"] {
        let order = stage.whole_order(&customer, title).await;
        stage.settled(&customer, &order, 4).await;
    }
    let (before, changes) = (stage.dump(), stage.number("SELECT last AS number FROM my_change"));

    stage.test.mesh.stop("mypage").await;
    stage.forget_cursors();
    stage.test.restart("mypage").await;
    let behind = "SELECT count(*) AS number FROM mesh_cursor WHERE position = 0
                  AND source IN ('homemovie.app', 'homemovie.movie', 'payment')";
    eventually("every log read again", || async { (stage.number(behind) == 0).then_some(()) })
        .await;
    let last = stage.whole_order(&customer, "Burning").await;
    stage.settled(&customer, &last, 4).await;

    let after: Vec<_> = stage.dump().into_iter().filter(|row| !row.contains(&last.name)).collect();
    assert_eq!(after, before);
    assert_eq!(
        stage.number("SELECT last AS number FROM my_change"),
        changes + 4,
        "only what is new is a change"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_what_happens_while_it_is_stopped_is_there_once_it_runs() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    stage.test.mesh.stop("mypage").await;
    let mut orders = Vec::new();
    for number in 0..50 {
        let order = Order::of(&customer);
        stage.approve(&order).await;
        stage.pick(&order, &format!("Film {number}")).await;
        orders.push(order);
    }
    stage.test.restart("mypage").await;

    for order in &orders {
        let seen = stage.settled(&customer, order, 2).await;
        assert_eq!(events(&seen), ["PaymentApproved", "MoviePicked"]);
    }
    let newest_first: Vec<_> = list(&customer).await.into_iter().map(|order| order.name).collect();
    let picked: Vec<_> = orders.iter().rev().map(|order| order.name.clone()).collect();
    assert_eq!(newest_first, picked);
    assert_eq!(stage.number("SELECT count(*) AS number FROM my_progress"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_tells_everything_with_its_time() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = stage.whole_order(&customer, "Parasite").await;
    stage.watch_film(&order).await;
    stage.ask_to_cancel(&order).await;
    stage.refuse_cancel(&order).await;
    stage.advance(&order, State::MovieWatched).await;

    let seen = stage.settled(&customer, &order, 8).await;
    let expected = [
        "PaymentApproved",
        "MoviePicked",
        "MovieOrdered",
        "MovieApplicationAdvanced",
        "MovieWatched",
        "MovieAppCancelled",
        "MovieCancelRefused",
        "MovieApplicationAdvanced",
    ];
    assert_eq!(events(&seen), expected);
    let sources: Vec<_> =
        seen.history.iter().take(3).map(|progress| progress.source.as_str()).collect();
    assert_eq!(sources, [SOURCES[2], SOURCES[0], SOURCES[1]]);
    assert_eq!(seen.history[3].revision, order.revision(2));
    let times: Vec<_> = seen
        .history
        .iter()
        .map(|progress| progress.time.map(|time| (time.seconds, time.nanos)))
        .collect();
    assert!(times.is_sorted() && times.iter().all(Option::is_some), "{times:?}");
    assert_eq!(seen.update_time, seen.history[7].time);

    assert_eq!((seen.system.as_str(), seen.state.as_str()), ("homemovie", "MOVIE_WATCHED"));
    assert_eq!(
        (seen.title.as_str(), seen.quantity, seen.amount.clone()),
        ("Parasite", 1, won(50_000))
    );
    assert_eq!((seen.customer, seen.payment_state.as_str()), (customer.id.to_string(), "APPROVED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_shows_its_end_and_its_refund() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = stage.whole_order(&customer, "Parasite").await;
    stage.ask_to_cancel(&order).await;
    stage.cancel_film(&order).await;
    stage.advance(&order, State::MovieCancelled).await;
    stage.refund(&order, 50_000).await;

    let seen = stage.settled(&customer, &order, 8).await;
    assert_eq!(
        (seen.state.as_str(), seen.payment_state.as_str()),
        ("MOVIE_CANCELLED", "CANCELLED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g17_a_list_is_read_page_by_page_newest_first() {
    let stage = Stage::set().await;
    let (customer, other) = (stage.test.customer(), stage.test.customer());
    let mut picked = Vec::new();
    for number in 0..25 {
        let order = Order::of(&customer);
        stage.pick(&order, &format!("Film {number}")).await;
        picked.insert(0, order.name);
    }
    eventually("25 orders", || async { (list(&customer).await.len() == 25).then_some(()) }).await;

    let ask = async |account, page_size, page_token: &str| {
        let page_token = page_token.to_owned();
        let request = api::ListMyOrdersRequest { page_size, page_token, ..Default::default() };
        page_of(account).list_my_orders(request).await.map(tonic::Response::into_inner)
    };
    let (mut seen, mut tokens) = (Vec::new(), vec![String::new()]);
    for expected in [10, 10, 5] {
        let page = ask(&customer, 10, tokens.last().unwrap()).await.unwrap();
        assert_eq!(page.my_orders.len(), expected);
        seen.extend(page.my_orders.into_iter().map(|order| order.name));
        tokens.push(page.next_page_token);
    }
    assert_eq!(seen, picked);
    assert_eq!(tokens[3], "", "the last page");

    let forged = tokens[1].replace(|c: char| c.is_ascii_lowercase(), "x");
    let bad =
        [(&customer, 10, forged.as_str()), (&other, 10, tokens[1].as_str()), (&customer, -1, "")];
    for (account, page_size, token) in bad {
        assert_eq!(
            refusal(ask(account, page_size, token).await).0,
            Code::InvalidArgument,
            "{page_size} {token}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn min_revision_waits_for_what_is_on_its_way() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = stage.whole_order(&customer, "Parasite").await;
    stage.settled(&customer, &order, 4).await;

    // Each time for a revision that is not there when it is asked for. On a slow machine it may come too late once.
    let mut sequence = 2;
    eventually("an answer that waited", || {
        sequence += 1;
        let (stage, customer, order) = (&stage, &customer, &order);
        async move {
            let request =
                api::GetMyOrderRequest { min_revision: order.revision(sequence), ..wanted(order) };
            let mut page = page_of(customer);
            let (answer, told) =
                tokio::join!(page.get_my_order(request), stage.advance(order, State::MovieOrdered));
            assert_eq!(told, sequence);
            let answer = answer.unwrap().into_inner();
            let revisions: Vec<_> =
                answer.my_order.unwrap().history.into_iter().map(|p| p.revision).collect();
            assert_eq!(answer.stale, !revisions.contains(&order.revision(sequence)));
            (!answer.stale).then_some(())
        }
    })
    .await;

    // The payment's and the purchase's revisions are known, too, and a later one says that an earlier one is there.
    let payment = find(&customer, &order).await.unwrap().history[0].revision.clone();
    for min_revision in [payment, order.revision(1)] {
        let request = api::GetMyOrderRequest { min_revision, ..wanted(&order) };
        assert!(!page_of(&customer).get_my_order(request).await.unwrap().into_inner().stale);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn min_revision_says_stale_when_it_waited_in_vain() {
    let stage = Stage::set().await;
    let customer = stage.test.customer();
    let order = stage.whole_order(&customer, "Parasite").await;
    let seen = stage.settled(&customer, &order, 4).await;

    let begun = Instant::now();
    let request = api::GetMyOrderRequest { min_revision: order.revision(99), ..wanted(&order) };
    let answer = page_of(&customer).get_my_order(request).await.unwrap().into_inner();
    assert!(answer.stale && begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(answer.my_order.as_ref(), Some(&seen), "what is there is told all the same");

    let request =
        api::ListMyOrdersRequest { min_revision: order.revision(99), ..Default::default() };
    let answer = page_of(&customer).list_my_orders(request).await.unwrap().into_inner();
    assert!(answer.stale);
    assert_eq!(answer.my_orders, [seen]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_is_named() {
    let stage = Stage::set().await;
    let mut page = page_of(&stage.test.customer());
    for min_revision in
        ["rubbish", "movieApplications/1@", "movieApplications/1@-1", "movieApplications/1@0", "@1"]
    {
        let min_revision = min_revision.to_owned();
        let request = api::GetMyOrderRequest { name: "Parasite".to_owned(), min_revision };
        let status = page.get_my_order(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains("name ") && status.message().contains("min_revision "),
            "{status}"
        );
    }
    let rebuild = api::RebuildViewRequest { request_id: "1".to_owned() };
    let status = page_of(&stage.test.admin()).rebuild_view(rebuild).await.unwrap_err();
    let expected = tonic::Status::from(Error::invalid("request_id", "must be a UUID"));
    assert_eq!((status.code(), status.message()), (expected.code(), expected.message()));
}
