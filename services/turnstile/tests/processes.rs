//! Contexts in processes of their own: what goes on while one is away, moves, is killed or told to stop.
//!
//! `KILL_CYCLES` (20) says how often one of them is killed, `KILL_SEED` from which random numbers.

#![allow(clippy::print_stdout, reason = "the proof prints what it saw")]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use common::crowd::{Crowd, WORLD, check_integrity};
use common::system::{FRONT, SECRET, System};
use common::{Up, customer, film, pick, reserve, run, setting, sign_in, turnstile, with_token};
use mesh_testing::{Authority, eventually};
use proto::identity::v1::GetJwksRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::mypage::v1::{GetMyOrderRequest, ListMyOrdersRequest, MyOrder, WatchMyOrdersRequest};
use proto::notice::v1::ListNoticesRequest;
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::payment::v1::ListPaymentsRequest;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::Code;
use tonic::transport::Channel;

/// Waits until my page shows an order in this state, and knows of this event: each was taken in once.
async fn my_page_shows(page: &Channel, token: &str, name: &str, state: &str, event: &str) {
    let order = eventually(&format!("my page shows {name} in {state}"), async || {
        let request = GetMyOrderRequest { name: name.to_owned(), min_revision: String::new() };
        let mut page = MyPageServiceClient::new(page.clone());
        let answer = page.get_my_order(with_token(token, request)).await.ok()?.into_inner();
        let knows = |order: &MyOrder| order.history.iter().any(|progress| progress.event == event);
        answer.my_order.filter(|order| order.state == state && knows(order))
    })
    .await;
    let mut seen = BTreeSet::new();
    for progress in &order.history {
        assert!(seen.insert(&progress.revision), "{} twice", progress.revision);
    }
    let times = order.history.iter().filter(|progress| progress.event == event).count();
    assert_eq!(times, 1, "{event}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hm_n3_hm_n4_five_picks_succeed_while_a_consumer_is_away_and_it_catches_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let contexts = ["identity", "payment", "homemovie.app", "homemovie.movie", "mypage"];
    let mut system = System::start(folder.path(), &contexts).await;
    let token = customer(&system.connect("identity").await, "a@example.org").await;
    let movie = film(system.connect("homemovie.movie").await).await;
    let desk = system.connect("homemovie.app").await;
    eventually("the desk knows the film", async || pick(&desk, &token, &movie).await.ok()).await;
    for consumer in ["homemovie.movie", "mypage"] {
        system.stop(consumer).await;
        let mut picked = Vec::new();
        for _ in 0..5 {
            picked.push(pick(&desk, &token, &movie).await.expect("picked"));
        }
        system.serve(consumer).await;
        let page = system.connect("mypage").await;
        for name in &picked {
            my_page_shows(&page, &token, name, "MOVIE_ORDERED", "MovieOrdered").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn op_n3_op_n4_five_reservations_succeed_while_a_consumer_is_away_and_it_catches_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let contexts =
        ["identity", "payment", "outerpark.musical", "outerpark.reservation", "notice", "mypage"];
    let mut system = System::start(folder.path(), &contexts).await;
    let identity = system.connect("identity").await;
    let token = customer(&identity, "a@example.org").await;
    let admin = sign_in(&identity, "admin@localhost", common::PASSWORD).await;
    let musicals =
        std::sync::Arc::new(std::sync::Mutex::new(system.connect("outerpark.musical").await));
    let musical = common::register_musical(&musicals, &admin, 100).await;
    let desk = system.connect("outerpark.reservation").await;
    let known = async || reserve(&desk, &token, &musical).await.ok();
    eventually("the desk knows the performance", known).await;
    for consumer in ["payment", "notice", "mypage"] {
        system.stop(consumer).await;
        let mut reserved = Vec::new();
        for _ in 0..5 {
            reserved.push(reserve(&desk, &token, &musical).await.expect("reserved"));
        }
        system.serve(consumer).await;
        let (page, payment) = (system.connect("mypage").await, system.connect("payment").await);
        let notice = system.connect("notice").await;
        for name in &reserved {
            my_page_shows(&page, &token, name, "PAYMENT_APPROVED", "PaymentApproved").await;
            let request = ListPaymentsRequest { order: name.clone(), ..Default::default() };
            let mut payments = PaymentServiceClient::new(payment.clone());
            let paid = payments.list_payments(with_token(&token, request)).await.expect("a list");
            assert_eq!(paid.into_inner().payments.len(), 1, "{name} is paid once");
            let told = eventually("the customer is told", async || {
                let mut notices = NoticeServiceClient::new(notice.clone());
                let request =
                    with_token(&token, ListNoticesRequest { page_size: 100, ..Default::default() });
                let all = notices.list_notices(request).await.ok()?.into_inner().notices;
                let told = all.iter().filter(|notice| notice.order == *name).count();
                (told > 0).then_some(told)
            })
            .await;
            assert_eq!(told, 1, "{name} is told once");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_18_calls_follow_a_callee_that_moves_to_another_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let contexts = ["identity", "payment", "homemovie.app", "homemovie.movie"];
    let mut system = System::start(folder.path(), &contexts).await;
    let token = customer(&system.connect("identity").await, "a@example.org").await;
    let movie = film(system.connect("homemovie.movie").await).await;
    let desk = system.connect("homemovie.app").await;
    for _ in 0..3 {
        eventually("a pick is answered", async || pick(&desk, &token, &movie).await.ok()).await;
        let before = system.address("payment").to_owned();
        system.stop("payment").await;
        let refused = pick(&desk, &token, &movie).await.expect_err("nobody takes the payment");
        assert_eq!(mesh::reason_of(&refused).as_deref(), Some("PAYMENT_BUSY"), "{refused}");
        system.serve("payment").await;
        assert_ne!(system.address("payment"), before);
    }
    eventually("a pick is answered", async || pick(&desk, &token, &movie).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_4_a_context_starts_while_identity_is_down_and_knows_its_customers_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut system = System::start(folder.path(), &["mypage"]).await;
    system.serve("identity").await;
    let token = customer(&system.connect("identity").await, "a@example.org").await;
    let page = MyPageServiceClient::new(system.connect("mypage").await);
    let orders = async || {
        let request = with_token(&token, ListMyOrdersRequest::default());
        page.clone().list_my_orders(request).await.ok()
    };
    eventually("a token is known", orders).await;
    system.stop("identity").await;
    // Also after a start without it.
    system.stop("mypage").await;
    system.serve("mypage").await;
    let mut page = MyPageServiceClient::new(system.connect("mypage").await);
    page.list_my_orders(with_token(&token, ListMyOrdersRequest::default())).await.expect("a list");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_15_contexts_with_certificates_need_no_secret_and_take_no_strangers() {
    let folder = tempfile::tempdir().expect("a folder");
    let contexts = ["identity", "payment", "homemovie.app", "homemovie.movie"];
    let mut system = System::start_certified(folder.path(), &contexts, Authority::new()).await;
    system.serve(FRONT).await;
    let channel = system.connect(FRONT).await;
    eventually("identity answers", async || {
        let mut identity = IdentityServiceClient::new(channel.clone());
        identity.get_jwks(GetJwksRequest {}).await.ok()
    })
    .await;
    let token = customer(&channel, "a@example.org").await;
    let movie = film(channel.clone()).await;
    eventually("a pick is answered", async || pick(&channel, &token, &movie).await.ok()).await;

    let in_the_clear = format!("http://{}", system.address("payment"));
    let stranger =
        tonic::transport::Endpoint::from_shared(in_the_clear).expect("a URL").connect_lazy();
    let request = with_token(&token, ListPaymentsRequest::default());
    let refused = PaymentServiceClient::new(stranger).list_payments(request).await;
    let refused = refused.expect_err("no");
    assert_eq!(mesh::reason_of(&refused), None, "whatever we refuse has a reason: {refused:?}");
}

#[tokio::test]
async fn contexts_apart_that_could_not_know_each_other_do_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let serve = |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut command = turnstile();
        command.arg("serve").args(arguments).args(["--listen", "127.0.0.1:0", "--data"]);
        command.arg(folder.path()).envs(settings.iter().copied());
        command
    };
    let refused = async |mut command: Command, why: &str| {
        let ended = run(&mut command).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(why), "{said}");
    };
    let key = ("TURNSTILE_MESH_KEY", SECRET);
    refused(serve(&["payment"], &[]), "TURNSTILE_MESH_KEY_FILE").await;
    refused(serve(&["payment"], &[("TURNSTILE_MESH_KEY", "short")]), "at least 32").await;
    refused(serve(&["payments"], &[key]), "there is no context payments").await;
    let endpoints = ("TURNSTILE_ENDPOINTS", "mypage=https://mypage:50051");
    refused(serve(&["payment"], &[key, endpoints]), "is not an endpoint like http://").await;
    let authority = Authority::new();
    let files = authority.issue("mypage");
    let tls = [("CERT", &files.certificate), ("KEY", &files.key), ("CA", &files.authority)];
    let mut command = serve(&["payment"], &[]);
    command.envs(tls.map(|(what, file)| (format!("TURNSTILE_TLS_{what}_FILE"), file)));
    refused(command, "the certificate is for mypage, and not for payment").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_kill_contexts_killed_one_by_one_under_load_lose_nothing_that_was_answered() {
    let cycles = setting("KILL_CYCLES", 20);
    let seed = setting("KILL_SEED", SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs());
    println!("KILL_SEED={seed}");
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_processes(folder.path(), &WORLD).await;
    let mut crowd = Crowd::gather(&up, seed).await;

    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut killed = BTreeSet::new();
    for _ in 0..cycles {
        // The moment of a kill is what is random here, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        let (context, process) = up.processes().into_iter().choose(&mut random).expect("one");
        let kill = Command::new("kill").args(["-KILL", &process.to_string()]).output().await;
        // It may be dead already, and not back yet.
        if kill.expect("kill").status.success() {
            killed.insert(context);
        }
    }
    crowd.go_home().await;
    check_integrity(folder.path());
    crowd.was_told_the_truth(folder.path()).await;
    let took = begun.elapsed();
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");

    let (orders, cancelled) = crowd.told.counts();
    println!("{killed:?} killed, {took:.0?}: {orders} orders, {cancelled} cancelled, none lost");
    assert!(killed.len() > 1 && orders > 50 && cancelled > 5, "too little happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_12_sigterm_under_load_keeps_every_answer_and_ends_streams_with_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_processes(folder.path(), &WORLD).await;
    let mut crowd = Crowd::gather(&up, 12).await;
    let silent = TcpStream::connect(&up.address).await.expect("a connection");
    let mut page = MyPageServiceClient::new(up.connect().await);
    let request = with_token(&crowd.token, WatchMyOrdersRequest::default());
    let mut orders = page.watch_my_orders(request).await.expect("a stream").into_inner();
    eventually("orders", async || (crowd.told.counts().0 > 20).then_some(())).await;

    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("were cut") && !said.contains("SIGKILL"), "{said}");
    let hint = loop {
        match orders.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream of my orders does not end"),
            Err(hint) => break hint,
        }
    };
    assert_eq!(hint.code(), Code::Unavailable, "{hint:?}");
    assert!(mesh::retry_delay_of(&hint).is_some(), "{hint:?}");
    drop(silent);

    // All of it in one process goes on where they were.
    let up = Up::start_with(folder.path(), &WORLD).await;
    crowd.moves_to(&up).await;
    crowd.go_home().await;
    crowd.was_told_the_truth(folder.path()).await;
    up.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_of_processes_is_used_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let up = Up::start_processes(folder.path(), &[]).await;
    let target = format!("http://{}", up.address);
    let channel = up.connect().await;
    let (token, movie) = (customer(&channel, "a@example.org").await, film(channel.clone()).await);
    eventually("the desk knows the film", async || pick(&channel, &token, &movie).await.ok()).await;
    for system in ["homemovie", "outerpark"] {
        let played = run(turnstile().args(["demo", system, "--target", &target])).await;
        let shown = String::from_utf8_lossy(&played.stdout).into_owned();
        let said = String::from_utf8_lossy(&played.stderr).into_owned();
        assert!(shown.contains("all as it should be"), "{shown}{said}");
    }
    for action in [vec!["events", "parked"], vec!["intents"], vec!["policies"], vec!["edges"]] {
        let looked = run(turnstile().args(&action).args(["--target", &target])).await;
        assert!(looked.status.success(), "{action:?}: {}", String::from_utf8_lossy(&looked.stderr));
    }
    let backup = run(turnstile().args(["backup", "now", "--target", &target])).await;
    let said = String::from_utf8_lossy(&backup.stderr).into_owned();
    assert!(!backup.status.success() && said.contains("not implemented"), "{said}");
    let mut second = turnstile();
    second.args(["up", "--processes", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path());
    let ended = run(&mut second).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("in use by another process"), "{said}");

    // Children end with their parent, however it ends, and leave what a backup of a stopped system takes.
    up.kill().await;
    eventually("the stores are free", async || {
        let backup = run(turnstile().args(["backup", "then", "--data"]).arg(folder.path())).await;
        backup.status.success().then_some(())
    })
    .await;
    let up = Up::start(folder.path()).await;
    let (status, said) = up.terminate().await;
    assert_eq!(status, Some(0), "{said}");
}
