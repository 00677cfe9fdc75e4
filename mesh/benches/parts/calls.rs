//! A call of one context by another, in one process.

use std::time::Duration;

use mesh::{Context, Wiring};
use mesh_testing::TestMesh;
use proto::payment::v1::GetPaymentByOrderRequest;
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::payment_service_server::PaymentServiceServer;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tonic::transport::Endpoint;

use crate::stand_in::{Desk, MIGRATIONS};
use crate::{Done, repeat, row, server};

pub(crate) async fn measure(time: Duration) {
    let payment = payment();
    let mesh = TestMesh::start(std::slice::from_ref(&payment)).await;
    let address = server::bare().await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let tcp = PaymentServiceClient::new(endpoint.connect().await.expect("a connection"));
    let object = PaymentServiceClient::new(PaymentServiceServer::new(Desk));
    let ours = PaymentServiceClient::new(mesh.service("homemovie.app", "payment"));

    for (at_once, how) in [(1, "one at a time"), (64, "64 at once")] {
        let object = query(object.clone(), at_once, time).await;
        let tcp = query(tcp.clone(), at_once, time).await;
        let ours = query(ours.clone(), at_once, time).await;
        for (beside, name) in [(&object, "the service object"), (&tcp, "loopback TCP")] {
            row(&format!("local calls/s, {how} ({name})"), ours.per_s, beside.per_s);
            for percent in [50, 99] {
                let what = format!("local call, {how}, p{percent}, us ({name})");
                row(&what, ours.percentile(percent), beside.percentile(percent));
            }
        }
    }
    mesh.mesh.shut_down().await;
}

/// Payment, with answers that cost nothing.
pub(crate) fn payment() -> Context {
    Context::new(
        "payment",
        || MIGRATIONS,
        |_| Ok(Wiring::default().serve(PaymentServiceServer::new(Desk))),
    )
}

async fn query<T>(client: PaymentServiceClient<T>, at_once: usize, time: Duration) -> Done
where
    T: GrpcService<Body, Future: Send, Error: Into<StdError>> + Clone + Send + Sync + 'static,
    T::ResponseBody:
        tonic::codegen::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    repeat(at_once, time, move |_| {
        let mut client = client.clone();
        async move {
            let order = "movieApplications/01a1fc0b-34d2-7068-8d37-7675c7d06d61".to_owned();
            let answer = client.get_payment_by_order(GetPaymentByOrderRequest { order });
            answer.await.expect("an answer");
        }
    })
    .await
}
