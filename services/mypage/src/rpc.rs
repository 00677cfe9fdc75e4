//! The calls of `MyPageService`.

use mesh::events::{Generations, read_revision};
use mesh::watch::WatchStream;
use mesh::{Caller, Check, Page, Store, micros};
use proto::mypage::v1 as api;
use proto::mypage::v1::my_page_service_server::MyPageService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::follow::{self, Revision};
use crate::store::{self, Mark};
use crate::watch::Changes;
use crate::wire::my_order;

pub(crate) struct MyPage {
    store: Store,
    changes: Changes,
    stopping: CancellationToken,
}

impl MyPage {
    pub(crate) fn new(store: Store, changes: Changes, stopping: CancellationToken) -> Self {
        Self { store, changes, stopping }
    }

    /// Waits briefly for what the caller knows of; says whether the view is still without it.
    async fn is_stale(&self, customer: &str, wanted: Option<Revision>) -> mesh::Result<bool> {
        match wanted {
            Some(revision) => Ok(!follow::has(&self.store, customer, &revision).await?),
            None => Ok(false),
        }
    }
}

#[tonic::async_trait]
impl MyPageService for MyPage {
    async fn get_my_order(
        &self,
        request: Request<api::GetMyOrderRequest>,
    ) -> Result<Response<api::GetMyOrderResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?.to_string();
        let mut check = Check::new();
        let name = check.any_name("name", &request.name);
        let wanted = min_revision(&mut check, &request.min_revision);
        check.finish()?;

        let stale = self.is_stale(&customer, wanted).await?;
        let order = self.store.read(move |conn| store::order(conn, &customer, &name)).await?;
        Ok(Response::new(api::GetMyOrderResponse { my_order: Some(my_order(order)), stale }))
    }

    async fn list_my_orders(
        &self,
        request: Request<api::ListMyOrdersRequest>,
    ) -> Result<Response<api::ListMyOrdersResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?.to_string();
        let mut check = Check::new();
        let list = format!("orders of {customer}");
        let page = self.store.page(&mut check, &list, request.page_size, 50, &request.page_token);
        let wanted = min_revision(&mut check, &request.min_revision);
        check.finish()?;

        let stale = self.is_stale(&customer, wanted).await?;
        let part = page.clone();
        let orders = self.store.read(move |conn| store::orders(conn, &customer, &part)).await?;
        // Names of different systems do not sort by age.
        let (orders, next_page_token) =
            page.cut(orders, |(order, _)| Page::place(micros(order.create_time), &order.name));
        let my_orders = orders.into_iter().map(my_order).collect();
        Ok(Response::new(api::ListMyOrdersResponse { my_orders, next_page_token, stale }))
    }

    type WatchMyOrdersStream = WatchStream<api::WatchMyOrdersResponse>;

    async fn watch_my_orders(
        &self,
        request: Request<api::WatchMyOrdersRequest>,
    ) -> Result<Response<Self::WatchMyOrdersStream>, Status> {
        let (caller, request) = Caller::of(request)?;
        let customer = caller.account()?.to_string();
        let mut check = Check::new();
        let mark = resume_token(&mut check, &request.resume_token);
        check.finish()?;

        let orders = self.changes.clone().watch(self.stopping.clone(), customer, mark);
        Ok(Response::new(Box::pin(orders)))
    }

    async fn rebuild_view(
        &self,
        request: Request<api::RebuildViewRequest>,
    ) -> Result<Response<api::RebuildViewResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        Check::command(&request).finish()?;

        let answer = self.store.once(&caller, &request, |tx| {
            let generation = Generations::rebuild(tx)?.unsigned_abs();
            Ok(api::RebuildViewResponse { generation })
        });
        Ok(Response::new(answer.await?))
    }
}

/// The change that the caller knows of, if it names one.
fn min_revision(check: &mut Check, text: &str) -> Option<Revision> {
    if text.is_empty() {
        return None;
    }
    let revision = read_revision(text).and_then(|(subject, sequence)| {
        let sequence = i64::try_from(sequence).ok().filter(|sequence| *sequence > 0)?;
        (!subject.is_empty()).then(|| Revision { subject: subject.to_owned(), sequence })
    });
    if revision.is_none() {
        check.bad("min_revision", "must have the format {subject}@{sequence}");
    }
    revision
}

/// Where a stream goes on; without a token before everything.
fn resume_token(check: &mut Check, text: &str) -> Mark {
    if text.is_empty() {
        return Mark::default();
    }
    text.parse().unwrap_or_else(|bad| {
        check.bad("resume_token", bad);
        Mark::default()
    })
}
