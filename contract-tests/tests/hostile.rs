//! Clients that mean harm, over real sockets: each case ends, costs little, and the next good call works.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use contract_tests::hostile::{
    Answer, END_HEADERS, GOOD, Peer, Wire, frame, headers, kind, message, read, request, request_as,
};
use contract_tests::raw;
use h2::Reason;
use http::{HeaderValue, StatusCode};
use mesh::Limits;
use mesh_testing::{Account, TestMesh, eventually};
use proto::mypage::v1::WatchMyOrdersRequest;
use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::timeout;
use tonic::{Code, Status};

/// How long anything of this may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests run beside one another, but who measures memory is alone.
static TURN: RwLock<()> = RwLock::const_new(());

/// What is attacked.
struct Target<T> {
    mesh: TestMesh,
    _turn: T,
}

impl<T> Deref for Target<T> {
    type Target = TestMesh;

    fn deref(&self) -> &TestMesh {
        &self.mesh
    }
}

async fn start() -> Target<RwLockReadGuard<'static, ()>> {
    start_with(Limits::default()).await
}

async fn start_with(limits: Limits) -> Target<RwLockReadGuard<'static, ()>> {
    let turn = TURN.read().await;
    Target { mesh: mesh_with(limits).await, _turn: turn }
}

async fn start_alone() -> Target<RwLockWriteGuard<'static, ()>> {
    let turn = TURN.write().await;
    Target { mesh: mesh_with(Limits::default()).await, _turn: turn }
}

async fn mesh_with(limits: Limits) -> TestMesh {
    let contexts = [homemovie_movie::context(true), mypage::context()];
    TestMesh::start_with(&contexts, |options| options.limits = limits).await
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A neighbour's good call.
async fn good_call(neighbour: &tonic::transport::Channel) {
    let answer = raw::call(neighbour.clone(), GOOD, Vec::new(), None);
    in_time("a good call", answer).await.expect("a good call works");
}

/// How much memory this process holds, server and all, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib / 1024
}

/// Writes the same bytes again and again, and drops what comes back, until it was enough or the server has had enough.
async fn flood(address: SocketAddr, bytes: &[u8], times: usize) {
    let wire = Wire::connect(address, &[]).await;
    let (mut reader, mut writer) = wire.into_split();
    let drain = async {
        let mut nothing = tokio::io::sink();
        let _ = tokio::io::copy(&mut reader, &mut nothing).await;
    };
    let write = async {
        for _ in 0..times {
            if writer.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = drain => {}
        () = write => {}
    }
}

#[tokio::test]
async fn s_03_who_opens_streams_to_reset_them_loses_the_connection() {
    let mesh = start_alone().await;
    let neighbour = mesh.stranger();
    good_call(&neighbour).await;
    let before = resident();
    let mut wire = Wire::connect(mesh.address(), &[]).await;
    let headers = headers();
    for stream in (1..20_000).step_by(2) {
        let mut pair = frame(kind::HEADERS, END_HEADERS, stream, &headers);
        pair.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if !wire.write(&pair).await {
            break;
        }
    }
    let goaway = in_time("a GOAWAY", wire.next_of(kind::GOAWAY)).await.expect("a GOAWAY");
    assert_eq!(goaway.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    good_call(&neighbour).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 50, "it cost {grown} MiB");
}

#[tokio::test]
async fn s_04_headers_without_an_end_end_the_connection() {
    let mesh = start().await;
    let neighbour = mesh.stranger();
    let mut wire = Wire::connect(mesh.address(), &[]).await;
    assert!(wire.write(&frame(kind::HEADERS, 0, 1, &headers())).await);
    // 8 KiB of small fields, for as long as they are taken.
    let mut field = vec![0, 1, b'x', 100];
    field.resize(field.len() + 100, b'y');
    let field = field.repeat(80);
    let more = frame(kind::CONTINUATION, 0, 1, &field);
    let mut written = 0;
    while written < 1000 && wire.write(&more).await {
        written += 1;
    }
    assert!(written < 1000, "8 MB of headers were taken");
    good_call(&neighbour).await;
}

#[tokio::test]
async fn s_04_a_flood_of_pings_or_settings_harms_nobody_else() {
    let mesh = start_alone().await;
    let neighbour = mesh.stranger();
    let before = resident();
    for flooding in [frame(kind::PING, 0, 0, &[7; 8]), frame(kind::SETTINGS, 0, 0, &[])] {
        let flooding = flooding.repeat(100);
        let flood = flood(mesh.address(), &flooding, 200);
        tokio::join!(in_time("the flood ends", flood), good_call(&neighbour));
    }
    good_call(&neighbour).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 50, "it cost {grown} MiB");
}

#[tokio::test]
async fn s_04_a_client_that_takes_no_answer_holds_up_nobody() {
    // Two calls at once are all there may be.
    let mesh = start_with(Limits { calls: 2, ..Limits::default() }).await;
    let neighbour = mesh.stranger();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0: nothing of a body may ever be sent.
    let mut wire = Wire::connect(mesh.address(), &[0, 4, 0, 0, 0, 0]).await;
    for stream in (1..20).step_by(2) {
        let mut call = frame(kind::HEADERS, END_HEADERS, stream, &headers());
        call.extend(frame(0, 1, stream, &message(0, 0, &[])));
        assert!(wire.write(&call).await);
        in_time("the headers of an answer", wire.next_of(kind::HEADERS)).await.expect("an answer");
    }
    good_call(&neighbour).await;
}

#[tokio::test]
async fn s_04_a_body_that_never_ends_is_cut_at_the_deadline() {
    let mesh = start().await;
    let peer = Peer::connect(mesh.address()).await;
    let mut hurried = request(GOOD);
    hurried.headers_mut().insert("grpc-timeout", HeaderValue::from_static("200m"));
    for request in [hurried, request(GOOD)] {
        let (answer, mut sender) = peer.begin(request).await;
        // A byte now and then: it is alive, and never done.
        let trickle = async {
            for byte in message(0, 1000, &[0x10; 995]) {
                if sender.send_data(Bytes::from(vec![byte]), false).is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = in_time("an answer", read(answer)) => answer,
            () = trickle => unreachable!("it never ends"),
        };
        assert_eq!(answer, Answer::of(Code::DeadlineExceeded));
    }
    good_call(&mesh.stranger()).await;
}

#[tokio::test]
async fn s_04_a_request_that_never_comes_opens_no_stream_and_asks_for_no_health() {
    let mesh = start().await;
    let peer = Peer::connect(mesh.address()).await;
    let mut watch = request("turnstile.mypage.v1.MyPageService/WatchMyOrders");
    let bearer = format!("Bearer {}", mesh.customer().token);
    watch.headers_mut().insert("authorization", bearer.parse().expect("a token"));
    let (watch, _open) = peer.begin(watch).await;
    let (health, _open_too) = peer.begin(request("grpc.health.v1.Health/Check")).await;
    let answers = async { tokio::join!(read(watch), read(health)) };
    let answers = in_time("both answers", answers).await;
    let late = || Answer::of(Code::DeadlineExceeded);
    assert_eq!(answers, (late(), late()));
}

/// Each status that tonic would give otherwise, or might give otherwise one day (trap T-26).
#[tokio::test]
async fn s_05_every_bad_call_has_its_status() {
    let mesh = start().await;
    let peer = Peer::connect(mesh.address()).await;
    let nothing = message(0, 0, &[]);
    let with = |name: &'static str, value: &'static str| {
        let mut request = request(GOOD);
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    let exactly = vec![0x12; 1024 * 1024];
    let cases = [
        ("nothing", request(GOOD), nothing.clone(), Answer::of(Code::Ok)),
        ("no message", request(GOOD), Bytes::new(), Answer::of(Code::Internal)),
        ("rubbish", request(GOOD), message(0, 3, b"\x0a\xff\xff"), Answer::of(Code::Internal)),
        ("half a prefix", request(GOOD), Bytes::from_static(&[0, 0]), Answer::of(Code::Internal)),
        ("half a message", request(GOOD), message(0, 9, b"abc"), Answer::of(Code::Internal)),
        ("a flag of no meaning", request(GOOD), message(7, 0, &[]), Answer::of(Code::Internal)),
        (
            "compressed, it says not how",
            request(GOOD),
            message(1, 2, &[8, 1]),
            Answer::of(Code::Internal),
        ),
        (
            "compressed, as nobody here reads it",
            with("grpc-encoding", "gzip"),
            message(1, 3, &[0x1f, 0x8b, 8]),
            Answer::of(Code::Unimplemented),
        ),
        (
            "as large as may be, and rubbish",
            request(GOOD),
            message(0, 1024 * 1024, &exactly),
            Answer::of(Code::Internal),
        ),
        (
            "a byte too large",
            request(GOOD),
            message(0, 1024 * 1024 + 1, &exactly),
            Answer::of(Code::ResourceExhausted),
        ),
        (
            "4 GiB, it says",
            request(GOOD),
            message(0, u32::MAX, &[]),
            Answer::of(Code::ResourceExhausted),
        ),
        (
            "too late",
            with("grpc-timeout", "0m"),
            nothing.clone(),
            Answer::of(Code::DeadlineExceeded),
        ),
        (
            "too late by a hair",
            with("grpc-timeout", "1n"),
            nothing.clone(),
            Answer::of(Code::DeadlineExceeded),
        ),
        (
            "no method",
            request("turnstile.homemovie.movie.v1.MovieService/Steal"),
            nothing.clone(),
            Answer::of(Code::Unimplemented),
        ),
        (
            "no service",
            request("turnstile.v1.No/Thing"),
            nothing.clone(),
            Answer::of(Code::Unimplemented),
        ),
        ("no path", request(""), nothing.clone(), Answer::of(Code::Unimplemented)),
        (
            "no health",
            request("grpc.health.v1.Health/Steal"),
            nothing.clone(),
            Answer::of(Code::Unimplemented),
        ),
        (
            "JSON",
            request_as(GOOD, "application/json"),
            nothing.clone(),
            Answer::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ),
    ];
    for (what, request, body, expected) in cases {
        assert_eq!(in_time(what, peer.call(request, body)).await, expected, "{what}");
    }
    let mut long = request(GOOD);
    for number in 0..5 {
        let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
        let value = HeaderValue::try_from("x".repeat(4000)).expect("a value");
        long.headers_mut().insert(name, value);
    }
    let answer = in_time("long headers", peer.call(long, nothing.clone())).await;
    assert_eq!(answer, Answer::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    // And on the same connection the next good call works.
    assert_eq!(peer.call(request(GOOD), nothing).await, Answer::of(Code::Ok));
}

#[tokio::test]
async fn s_05_a_length_alone_takes_no_memory() {
    let mesh = start_alone().await;
    let peer = Peer::connect(mesh.address()).await;
    let before = resident();
    for _ in 0..200 {
        let answer = peer.call(request(GOOD), message(0, u32::MAX, &[1; 1000])).await;
        assert_eq!(answer, Answer::of(Code::ResourceExhausted));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 50, "it cost {grown} MiB");
    good_call(&mesh.stranger()).await;
}

#[tokio::test]
async fn s_05_a_connection_has_200_streams_and_no_more() {
    let mesh = start().await;
    let mut wire = Wire::connect(mesh.address(), &[]).await;
    let headers = headers();
    for stream in (1..=401).step_by(2) {
        assert!(wire.write(&frame(kind::HEADERS, END_HEADERS, stream, &headers)).await);
    }
    let refused = in_time("a refusal", wire.next_of(kind::RST_STREAM)).await.expect("a refusal");
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    good_call(&mesh.stranger()).await;
}

#[tokio::test]
async fn s_02_connections_that_say_nothing_are_closed_and_keep_nobody_out() {
    let limits =
        Limits { connections: 20, silence: Duration::from_millis(300), ..Limits::default() };
    let mesh = start_with(limits).await;
    let mut silent = Vec::new();
    for number in 0..60 {
        let mut socket = TcpStream::connect(mesh.address()).await.expect("a connection");
        if number % 2 == 0 {
            socket.write_all(b"PRI * HTTP/2.0\r\n").await.expect("half a preface");
        }
        silent.push(socket);
    }
    good_call(&mesh.stranger()).await;
    for mut socket in silent {
        // In whichever way it ends.
        let _ = in_time("it is closed", socket.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn t30_an_overloaded_process_sheds_with_a_hint_and_tells_that_it_is_alive() {
    let mesh = start_with(Limits { calls: 0, ..Limits::default() }).await;
    let status = raw::call(mesh.stranger(), GOOD, Vec::new(), None).await.expect_err("shed");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(mesh::retry_delay_of(&status).is_some(), "{status:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
    let health = raw::call(mesh.stranger(), "grpc.health.v1.Health/Check", Vec::new(), None).await;
    assert_eq!(health.expect("an answer"), [0x08, 0x01]);
}

#[tokio::test]
async fn t27_a_process_that_stops_turns_new_calls_away_and_says_so() {
    let mesh = start().await;
    let customer = mesh.customer();
    let mut pages = MyPageServiceClient::new(customer.connect());
    let request = WatchMyOrdersRequest::default();
    let mut open = pages.watch_my_orders(request.clone()).await.expect("a stream").into_inner();
    mesh.mesh.mesh.drain().await;
    let end = in_time("the stream ends", async {
        loop {
            if let Err(status) = open.message().await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    let call = raw::call(mesh.stranger(), GOOD, Vec::new(), None).await.expect_err("turned away");
    let stream = pages.watch_my_orders(request).await.expect_err("turned away");
    for status in [call, stream] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(mesh::retry_delay_of(&status).is_some(), "{status:?}");
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
    }
    // HealthCheckRequest { service = 1 }, HealthCheckResponse { status = 1: NOT_SERVING = 2 }.
    let body = [b"\x0a\x06".as_slice(), b"mypage"].concat();
    let health = raw::call(mesh.stranger(), "grpc.health.v1.Health/Check", body, None).await;
    assert_eq!(health.expect("an answer"), [0x08, 0x02]);
}

/// Calls until it is once too often.
async fn call_too_often(mesh: &TestMesh, method: &str, token: Option<&str>) -> Status {
    for _ in 0..100 {
        let answer = raw::call(mesh.stranger(), method, Vec::new(), token).await;
        if let Some(status) = answer.err().filter(|status| status.code() != Code::Unauthenticated) {
            return status;
        }
    }
    panic!("a hundred calls in a moment were let in");
}

#[tokio::test]
async fn s_24_who_calls_too_often_is_told_when_to_come_again_and_others_do_not_notice() {
    let limits = Limits { calls_per_account: 1, calls_per_address: 1, ..Limits::default() };
    let mesh = start_with(limits).await;
    let (noisy, quiet) = (mesh.customer(), mesh.customer());
    let mine = "turnstile.mypage.v1.MyPageService/ListMyOrders";
    let call = |account: &Account| {
        let (stranger, token) = (mesh.stranger(), account.token.clone());
        async move { raw::call(stranger, mine, Vec::new(), Some(&token)).await }
    };
    let of_account = call_too_often(&mesh, mine, Some(&noisy.token)).await;
    call(&quiet).await.expect("another's call from the same address");
    // Who has no account, or none that is valid, is told apart by the address.
    let of_address = call_too_often(&mesh, mine, Some("rubbish")).await;
    let public = raw::call(mesh.stranger(), GOOD, Vec::new(), None).await.expect_err("too often");
    for status in [of_account, of_address, public] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let wait = mesh::retry_delay_of(&status).expect("when to come again");
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
    }
    call(&quiet).await.expect("another's call from the same address");
    eventually("the next call is let in", || async { call(&noisy).await.ok() }).await;
}

#[tokio::test]
async fn s_24_an_account_opens_ten_streams_and_another_does_not_notice() {
    let mesh = start().await;
    let (noisy, quiet) = (mesh.customer(), mesh.customer());
    let mut pages = MyPageServiceClient::new(noisy.connect());
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(pages.watch_my_orders(WatchMyOrdersRequest::default()).await.expect("a stream"));
    }
    let refused = pages.watch_my_orders(WatchMyOrdersRequest::default()).await;
    let status = refused.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(mesh::retry_delay_of(&status).is_some(), "{status:?}");
    let mut others = MyPageServiceClient::new(quiet.connect());
    others.watch_my_orders(WatchMyOrdersRequest::default()).await.expect("another's stream");
    open.pop();
    eventually("a place is free again", || async {
        let mut pages = MyPageServiceClient::new(noisy.connect());
        pages.watch_my_orders(WatchMyOrdersRequest::default()).await.ok()
    })
    .await;
}
