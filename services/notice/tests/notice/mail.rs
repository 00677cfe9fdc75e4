//! Mail, against a server of our own, and against aiosmtpd where there is one.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use diesel::{QueryableByName, RunQueryDsl as _};
use mesh::StoreAt;
use mesh::config::Secret;
use mesh_testing::eventually;
use notice::{Mail, Settings};
use proto::mesh::v1::ListEdgesRequest;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::notice::v1::notice::{Medium, State};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::smtp_server::{Reply, SmtpServer};
use crate::support::{Desk, EMAIL, open, order, quick};

async fn open_at(server: &SmtpServer) -> Desk {
    open(Settings { mail: Some(server.mail()), ..quick() }).await
}

/// `notices/{uuid}` as it stands in a Message-ID.
fn message_id(name: &str) -> String {
    format!("<{}@turnstile.example>", name.replace('/', "."))
}

#[tokio::test]
async fn a_mail_goes_to_the_address_that_identity_says() {
    let server = SmtpServer::start(|_, _| Reply::Accept).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Email, State::Sent).await;
    assert_eq!(sent.attempts, 1);

    let taken = server.taken(EMAIL);
    assert_eq!(taken.len(), 1);
    let mail = &taken[0];
    assert_eq!(mail.from, "notices@turnstile.example");
    assert_eq!(mail.header("Subject"), "Your booking is confirmed");
    assert_eq!(mail.header("Message-ID"), message_id(&sent.name));
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert!(mail.header("To").contains(EMAIL));
    let body = mail.data.split_once("\r\n\r\n").expect("a body").1;
    assert!(body.starts_with("Your booking is confirmed: Frozen, 10 seats.\r\n"), "{body}");
    assert!(body.contains(&order), "{body}");
    assert_eq!(mail.credentials, "");
}

#[tokio::test]
async fn who_has_a_password_signs_in() {
    let server = SmtpServer::start(|_, _| Reply::Accept).await;
    let mail = Mail {
        url: server.mail().url.replace("smtp://", "smtp://jang%40example.com@"),
        password: Some(Secret::new("hunter2:@/")),
        ..server.mail()
    };
    let desk = open(Settings { mail: Some(mail), ..quick() }).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    desk.settled(&order, Medium::Email, State::Sent).await;
    let credentials = STANDARD.decode(&server.taken(EMAIL)[0].credentials).expect("base64");
    assert_eq!(credentials, b"\0jang@example.com\0hunter2:@/");
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_and_a_copy_is_known_as_one() {
    let server = SmtpServer::start(|_, before| match before {
        0 => Reply::Refuse("451 try again later"),
        1 => Reply::Refuse("535 the credentials are wrong"),
        _ => Reply::Accept,
    })
    .await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Email, State::Sent).await;
    assert_eq!((sent.attempts, server.asked(EMAIL), server.taken(EMAIL).len()), (3, 3, 1));
}

#[tokio::test]
async fn a_server_that_is_always_busy_ends_in_failure() {
    let server = SmtpServer::start(|_, _| Reply::Refuse("451 try again later")).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Email, State::Failed).await;
    assert_eq!((failed.attempts, server.asked(EMAIL)), (4, 4));
}

#[tokio::test]
async fn a_server_that_knows_no_such_address_is_not_asked_again() {
    let server = SmtpServer::start(|_, _| Reply::Refuse("550 unknown")).await;
    let desk = open_at(&server).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Email, State::Failed).await;
    assert_eq!((failed.attempts, server.asked(EMAIL)), (1, 1));
}

#[tokio::test]
async fn a_server_without_the_tls_that_is_asked_for_gets_nothing() {
    let server = SmtpServer::start(|_, _| Reply::Accept).await;
    let plain = server.mail().url.replace("smtp://", "smtp://jang@");
    for url in [format!("{plain}?tls=required"), plain.replace("smtp://", "smtps://")] {
        let password = Some(Secret::new("hunter2"));
        let mail = Mail { url, password, ..server.mail() };
        let settings = Settings { timeout: Duration::from_millis(500), ..quick() };
        let desk = open(Settings { mail: Some(mail), ..settings }).await;
        let order = order();
        desk.send(&order, "confirmed").await.expect("an answer");
        let failed = desk.settled(&order, Medium::Email, State::Failed).await;
        assert_eq!((failed.attempts, server.asked(EMAIL)), (4, 0));
    }
}

#[tokio::test]
async fn no_address_is_kept() {
    let server = SmtpServer::start(|_, before| match before {
        0 => Reply::Accept,
        _ => Reply::Refuse("550 unknown"),
    })
    .await;
    let desk = open_at(&server).await;
    for (order, state) in [(order(), State::Sent), (order(), State::Failed)] {
        desk.send(&order, "confirmed").await.expect("an answer");
        desk.settled(&order, Medium::Email, state).await;
    }
    desk.mesh.mesh.stop("notice").await;
    let kept = everything(&desk.mesh.store("notice"));
    let has = |text: &str| kept.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("the mail server answered 550"), "the file is read");
    assert!(!has(EMAIL));
}

/// All there is in a store.
fn everything(store: &StoreAt) -> Vec<u8> {
    match store {
        StoreAt::File(file) => std::fs::read(file).expect("a file"),
        StoreAt::Postgres(_) => {
            let rows = "SELECT string_agg(notice::text, ' ') AS text FROM notice";
            let mut conn = store.connect().expect("a store");
            let all: Rows = diesel::sql_query(rows).get_result(&mut conn).expect("rows");
            all.text.into_bytes()
        }
    }
}

#[derive(QueryableByName)]
struct Rows {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

#[tokio::test]
async fn one_that_hangs_does_not_hold_up_the_next() {
    let server = SmtpServer::start(|to, _| match to {
        EMAIL => Reply::Hang,
        _ => Reply::Accept,
    })
    .await;
    let settings = Settings { timeout: Duration::from_secs(20), ..quick() };
    let mut desk = open(Settings { mail: Some(server.mail()), ..settings }).await;
    desk.send(&order(), "confirmed").await.expect("an answer");
    eventually("the first one hangs", || async { (server.asked(EMAIL) > 0).then_some(()) }).await;
    let begun = Instant::now();
    desk.customer = desk.customer_at("kim@example.com");
    let next = order();
    desk.send(&next, "confirmed").await.expect("an answer");
    desk.settled(&next, Medium::Email, State::Sent).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "it waited for the first");
}

#[tokio::test]
async fn a_server_that_always_hangs_ends_in_failure() {
    let server = SmtpServer::start(|_, _| Reply::Hang).await;
    let settings = Settings { timeout: Duration::from_millis(200), ..quick() };
    let desk = open(Settings { mail: Some(server.mail()), ..settings }).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Email, State::Failed).await;
    assert_eq!(failed.attempts, 4);
}

#[tokio::test]
async fn a_server_that_hangs_after_it_took_the_mail_has_taken_it() {
    let server = SmtpServer::start(|_, _| Reply::HangAfterwards).await;
    let settings = Settings { timeout: Duration::from_secs(4), ..quick() };
    let desk = open(Settings { mail: Some(server.mail()), ..settings }).await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Email, State::Sent).await;
    assert_eq!((sent.attempts, server.taken(EMAIL).len()), (1, 1));
}

#[tokio::test]
async fn g19_mails_wait_for_identity_and_use_up_no_attempt() {
    let server = SmtpServer::start(|_, _| Reply::Accept).await;
    let desk = open_at(&server).await;
    desk.mesh.mesh.stop("identity").await;
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    eventually("the address is asked for more often than a mail has attempts", || async {
        let mut operations = OperationsServiceClient::new(desk.mesh.admin().connect());
        let edges =
            operations.list_edges(ListEdgesRequest::default()).await.ok()?.into_inner().edges;
        let edge = edges.into_iter().find(|edge| edge.name == "notice->identity")?;
        (edge.fallback_count > 10).then_some(())
    })
    .await;
    let waiting = desk.notice(&order, Medium::Email).await.expect("a notice");
    assert_eq!((waiting.state(), server.asked(EMAIL)), (State::Queued, 0));
    desk.mesh.restart("identity").await;
    let sent = desk.settled(&order, Medium::Email, State::Sent).await;
    assert_eq!(sent.attempts, 1);
}

#[tokio::test]
async fn an_account_that_there_is_not_is_not_tried_again() {
    let server = SmtpServer::start(|_, _| Reply::Accept).await;
    let mut desk = open_at(&server).await;
    desk.customer = desk.mesh.customer();
    let order = order();
    desk.send(&order, "confirmed").await.expect("an answer");
    let failed = desk.settled(&order, Medium::Email, State::Failed).await;
    assert_eq!(failed.attempts, 1);
    assert_eq!(
        desk.identity.asked.load(Ordering::SeqCst),
        2,
        "once for the language, once for the address"
    );
}

/// Prints where it listens, then a line for each mail.
const AIOSMTPD: &str = r#"
import email, email.policy, json, socket, sys
from aiosmtpd.controller import Controller

class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "id": mail["message-id"],
            "name": mail["to"].addresses[0].display_name, "subject": mail["subject"],
            "text": mail.get_content(),
        }), flush=True)
        return "250 taken"

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
controller = Controller(Handler(), hostname="127.0.0.1", port=port)
controller.start()
print(port, flush=True)
sys.stdin.read()
"#;

#[tokio::test]
async fn a_mail_in_korean_arrives_at_a_real_server() {
    #[expect(clippy::disallowed_methods, reason = "about the machine that the test runs on")]
    let Ok(python) = std::env::var("TURNSTILE_TEST_PYTHON") else {
        eprintln!("skipped: TURNSTILE_TEST_PYTHON does not name a Python that has aiosmtpd");
        return;
    };
    let mut child = Command::new(python)
        .args(["-c", AIOSMTPD])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a Python that runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let port = lines.next_line().await.expect("a line").expect("a port: it needs aiosmtpd");
    let mail = Mail {
        url: format!("smtp://127.0.0.1:{port}"),
        password: None,
        from: "턴스타일 <notices@turnstile.example>".to_owned(),
    };
    let desk = open(Settings { mail: Some(mail), ..quick() }).await;
    desk.identity.know(desk.customer.id, EMAIL, "ko");
    let order = order();
    desk.send(&order, "cancelled").await.expect("an answer");
    let sent = desk.settled(&order, Medium::Email, State::Sent).await;

    let line = lines.next_line().await.expect("a line").expect("a mail");
    let mail: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(mail["from"], "notices@turnstile.example");
    assert_eq!(mail["to"], serde_json::json!([EMAIL]));
    assert_eq!(mail["name"], "장보고");
    assert_eq!(mail["subject"], "예약이 취소되었습니다");
    assert_eq!(mail["id"], message_id(&sent.name));
    let text = mail["text"].as_str().expect("a text");
    assert!(text.starts_with("예약이 취소되었습니다: Frozen, 10석."), "{text}");
    child.kill().await.expect("an end");
}
