//! Mistakes that are planted into whole systems, and the checks that find them: so it is known that they can see.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use contract_tests::homemovie::Homemovie;
use contract_tests::invariants::{HOMEMOVIE, Stores};
use contract_tests::mortal::World;
use contract_tests::stores::count;
use mesh::chaos::Bug;
use mesh::client::EdgeSettings;
use mesh_testing::{eventually, finds, request_id};
use proto::mypage::v1::GetMyOrderRequest;
use tonic::Code;

/// The world of the kill matrix, with one death.
async fn after_a_death_at(site: &'static str, n: u32, patience: Duration) -> Result<(), String> {
    let world = World::<Homemovie>::begin().await.with_patience(patience);
    world.kill(&("homemovie.app".to_owned(), site, n)).await
}

#[tokio::test]
async fn t_08_a_cursor_before_its_effect_is_found() {
    finds(Bug::CursorBeforeEffect, async |patience| {
        after_a_death_at("policy.before_effect", 1, patience).await
    })
    .await;
}

#[tokio::test]
async fn t_20_an_answer_that_is_remembered_apart_is_found() {
    // The second time that the desk begins to carry a command out: there the mistake has only half of it.
    finds(Bug::AnswerApart, async |patience| after_a_death_at("command.before", 2, patience).await)
        .await;
}

#[tokio::test]
async fn t_20_a_request_that_is_carried_out_twice_is_found() {
    finds(Bug::NoDeduplication, async |_| {
        let home = Homemovie::start().await;
        let id = request_id();
        let mut picked = BTreeSet::new();
        for _ in 0..2 {
            picked.insert(home.pick_with(&id).await.map_err(|status| status.to_string())?.name);
        }
        if picked.len() == 1 { Ok(()) } else { Err(format!("one request, {picked:?}")) }
    })
    .await;
}

#[tokio::test]
async fn t_40_an_order_that_is_registered_though_it_was_voided_is_found() {
    finds(Bug::RegisterUnchecked, async |patience| {
        let home = Homemovie::start_with(payment::Settings::default(), |options| {
            options.sweep_after = Duration::from_millis(100);
            let slow = EdgeSettings { timeout: Duration::from_secs(5), ..EdgeSettings::default() };
            options.edges = std::sync::Arc::new(move |_| slow);
        })
        .await;
        // The sweeper takes the order for a dead one while its payment's answer is still on the way.
        home.mesh.mesh.faults().hold_replies("Pay", true);
        let voided = async {
            let app = home.mesh.store("homemovie.app");
            eventually("it is voided", async || {
                (count(&app, "mesh_intent", "state = 'VOIDED'") == 1).then_some(())
            })
            .await;
            home.mesh.mesh.faults().hold_replies("Pay", false);
        };
        let (_, ()) = tokio::join!(home.pick(), voided);
        lawful(&home, patience).await
    })
    .await;
}

#[tokio::test]
async fn s_20_a_page_that_shows_everybodys_orders_is_found() {
    finds(Bug::NoOwnerFilter, async |_| {
        let home = Homemovie::start().await;
        let name = home.pick().await.map_err(|status| status.to_string())?.name;
        home.until_my_page(&name, "MOVIE_ORDERED", "APPROVED").await;
        let request = GetMyOrderRequest { name, ..GetMyOrderRequest::default() };
        let stranger = home.mesh.customer();
        match home.my_page_of(&stranger).get_my_order(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}

/// What breaks the laws of the system when everything has had time to come to its end.
async fn lawful(home: &Homemovie, patience: Duration) -> Result<(), String> {
    let stores = Stores::open(home.mesh.folder(), &HOMEMOVIE);
    let begun = Instant::now();
    loop {
        let unfinished = stores.unfinished();
        if unfinished.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > patience {
            return Err(format!("{unfinished:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
