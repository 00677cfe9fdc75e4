//! A customer's query over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_testing::{Account, SignedIn, TestMesh};
use proto::payment::v1::GetPaymentRequest;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::payment_service_server::PaymentServiceServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::stand_in::Desk;
use crate::{Done, calls, repeat, row};

const CONNECTIONS: usize = 2;
const AT_ONCE: usize = 64;

pub(crate) async fn measure(time: Duration) {
    // One customer who may ask for all of it, and is counted like any other.
    let mesh = TestMesh::start_with(&[calls::payment()], |options| {
        options.limits.calls_per_account = 100_000_000;
    })
    .await;
    let customer = mesh.customer();
    // The same customer with the same token, though nobody reads it there.
    let bystander = Account::of(&customer.token, customer.id, bare().await);
    let (bare, bare_cpu) = query(&bystander, time).await;
    let (ours, our_cpu) = query(&customer, time).await;
    row("a customer's query over TCP/s, 64 at once (bare tonic server)", ours.per_s, bare.per_s);
    for percent in [50, 99] {
        let what = format!("a customer's query over TCP, p{percent}, us (bare tonic server)");
        row(&what, ours.percentile(percent), bare.percentile(percent));
    }
    row("CPU of a query, its client's included, us (bare tonic server)", our_cpu, bare_cpu);
    mesh.mesh.shut_down().await;
}

/// A tonic server with a handler and nothing else.
pub(crate) async fn bare() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(PaymentServiceServer::new(Desk));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// What came of it, and microseconds of CPU a call.
async fn query(account: &Account, time: Duration) -> (Done, f64) {
    let connect = |_| PaymentServiceClient::<SignedIn>::new(account.connect());
    let clients: Vec<_> = (0..CONNECTIONS).map(connect).collect();
    let call = move |number: usize| {
        let mut client = clients[number % CONNECTIONS].clone();
        async move {
            let name = "payments/01a1fc0b-34d2-7068-8d37-7675c7d06d61".to_owned();
            client.get_payment(GetPaymentRequest { name }).await.expect("an answer");
        }
    };
    let cpu = cpu_seconds();
    let done = repeat(AT_ONCE, time, call).await;
    let cpu = (cpu_seconds() - cpu) * 1e6 / done.took.len() as f64;
    (done, cpu)
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("figures of this process");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // In ticks of a hundredth of a second.
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks") / 100.0).sum()
}
