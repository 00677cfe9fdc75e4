//! A mesh with notice and a stand-in for identity, called as `outerpark.reservation` would.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mesh::client::{BreakerSettings, Channel, EdgeSettings};
use mesh_testing::{Account, SignedIn, TestMesh, eventually, request_id};
use notice::Settings;
use prost::Name;
use proto::mesh::v1::event_service_client::EventServiceClient;
use proto::mesh::v1::{Event, SubscribeRequest};
use proto::notice::v1::notice::{Medium, State};
use proto::notice::v1::notice_service_client::NoticeServiceClient;
use proto::notice::v1::{ListNoticesRequest, Notice, Noticed, SendNoticeRequest};
use tonic::Status;

use crate::identity::StandIn;

/// The address of the customer.
pub(crate) const EMAIL: &str = "jang@example.com";

/// Notice, identity, and a customer who is told things in English.
pub(crate) struct Desk {
    pub(crate) mesh: TestMesh,
    pub(crate) identity: StandIn,
    pub(crate) customer: Account,
}

/// Settings under which what fails is tried again soon.
pub(crate) fn quick() -> Settings {
    Settings {
        attempts: 4,
        backoff: Duration::from_millis(10),
        longest_backoff: Duration::from_millis(50),
        timeout: Duration::from_secs(2),
        ..Settings::default()
    }
}

pub(crate) async fn open(settings: Settings) -> Desk {
    let change = |options: &mut mesh::Options| {
        // Breakers have tests of their own.
        let breaker = BreakerSettings { min_calls: u32::MAX, ..BreakerSettings::default() };
        let edge =
            EdgeSettings { timeout: Duration::from_secs(5), breaker, ..EdgeSettings::default() };
        options.edges = Arc::new(move |_| edge);
    };
    let identity = StandIn::default();
    let contexts = [identity.context(), notice::context(settings)];
    let mesh = TestMesh::start_with(&contexts, change).await;
    let customer = mesh.customer();
    identity.know(customer.id, EMAIL, "en");
    Desk { mesh, identity, customer }
}

/// A new order's name.
pub(crate) fn order() -> String {
    format!("musicalReservations/{}", request_id())
}

/// Tells of a musical.
pub(crate) fn parameters() -> HashMap<String, String> {
    [("title", "Frozen"), ("seats", "10")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

impl Desk {
    pub(crate) fn client(&self) -> NoticeServiceClient<Channel> {
        NoticeServiceClient::new(self.mesh.service("outerpark.reservation", "notice"))
    }

    pub(crate) fn request(&self, order: &str, kind: &str) -> SendNoticeRequest {
        SendNoticeRequest {
            request_id: request_id(),
            recipient: self.customer.id.to_string(),
            order: order.to_owned(),
            kind: kind.to_owned(),
            parameters: parameters(),
            unless_kinds: Vec::new(),
        }
    }

    pub(crate) async fn send(&self, order: &str, kind: &str) -> Result<Option<Notice>, Status> {
        self.ask(self.request(order, kind)).await
    }

    pub(crate) async fn ask(&self, request: SendNoticeRequest) -> Result<Option<Notice>, Status> {
        Ok(self.client().send_notice(request).await?.into_inner().notice)
    }

    /// A new customer with this address.
    pub(crate) fn customer_at(&self, email: &str) -> Account {
        let customer = self.mesh.customer();
        self.identity.know(customer.id, email, "en");
        customer
    }

    /// What the customer was told of this order over this medium.
    pub(crate) async fn notice(&self, order: &str, medium: Medium) -> Option<Notice> {
        let all = list(&self.customer, order).await;
        let mut of_medium = all.into_iter().filter(|notice| notice.medium() == medium);
        let notice = of_medium.next();
        assert!(of_medium.next().is_none(), "two notices of one kind");
        notice
    }

    /// Waits until it stands so.
    pub(crate) async fn settled(&self, order: &str, medium: Medium, state: State) -> Notice {
        eventually("a notice that is settled", || async {
            self.notice(order, medium).await.filter(|notice| notice.state() == state)
        })
        .await
    }

    /// Every event there is about this order.
    pub(crate) async fn events(&self, order: &str) -> Vec<Event> {
        let mut client = EventServiceClient::new(self.mesh.service("mypage", "notice"));
        let request = SubscribeRequest {
            source: "notice".to_owned(),
            policy: "mypage/test".to_owned(),
            ..SubscribeRequest::default()
        };
        let mut stream = client.subscribe(request).await.expect("a stream").into_inner();
        let mut events = Vec::new();
        loop {
            let batch = stream.message().await.expect("a batch").expect("a stream that goes on");
            events.extend(batch.events);
            if batch.to_position >= batch.head_position {
                events.retain(|event| event.correlation_id == order);
                return events;
            }
        }
    }

    /// What was told to the mesh about this order.
    pub(crate) async fn told(&self, order: &str) -> Vec<Noticed> {
        let events = self.events(order).await;
        let of_type = events.iter().filter(|event| event.r#type == Noticed::full_name());
        of_type.map(|event| prost::Message::decode(&event.data[..]).expect("a payload")).collect()
    }
}

pub(crate) fn reader(account: &Account) -> NoticeServiceClient<SignedIn> {
    NoticeServiceClient::new(account.connect())
}

/// What an account was told of this order; of all of them where it is empty.
pub(crate) async fn list(account: &Account, order: &str) -> Vec<Notice> {
    let request = ListNoticesRequest { order: order.to_owned(), ..ListNoticesRequest::default() };
    reader(account).list_notices(request).await.expect("a page").into_inner().notices
}
