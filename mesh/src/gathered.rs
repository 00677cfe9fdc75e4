//! What an operator looks at and puts right, over contexts of other processes: each is asked, and the answers are put
//! together.

use std::pin::Pin;
use std::sync::Weak;

use futures::Stream;
use proto::mesh::v1 as api;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mesh::v1::operations_service_server::{OperationsService, OperationsServiceServer};
use tonic::{Request, Response, Status};

use crate::caller::FRONT;
use crate::client::Channel;
use crate::error::{Error, Result};
use crate::registry::Registry;

type Client = OperationsServiceClient<Channel>;

pub(crate) fn service(registry: Weak<Registry>) -> OperationsServiceServer<Gathered> {
    OperationsServiceServer::new(Gathered { registry })
}

pub(crate) struct Gathered {
    registry: Weak<Registry>,
}

/// A page that is asked for: its token names a context, and a place in that context's list.
struct Ask {
    context: String,
    token: String,
    /// All rows, on one page.
    whole: bool,
}

impl Gathered {
    fn client(&self, context: &str) -> Result<Client> {
        let registry = self.registry.upgrade().ok_or_else(|| Error::unavailable("the process"))?;
        Ok(Client::new(registry.edge(FRONT, context, "operations")?))
    }

    /// The contexts asked for, by name.
    fn contexts(&self, context: &str) -> Result<Vec<String>> {
        let registry = self.registry.upgrade().ok_or_else(|| Error::unavailable("the process"))?;
        let all: Vec<_> = registry.forwards().keys().cloned().collect();
        match all.iter().find(|known| *known == context) {
            Some(one) => Ok(vec![one.clone()]),
            None if context.is_empty() => Ok(all),
            None => Err(Error::NotFound(context.to_owned())),
        }
    }

    /// The context that a request is for. Whoever is asked for none says what is wrong with the request.
    fn one(&self, context: &str) -> Result<String> {
        self.contexts(context)?.pop().ok_or_else(|| Error::NotFound(context.to_owned()))
    }

    /// Asks one context after the other, until there is something.
    async fn gather<T, F>(
        &self,
        ask: Ask,
        page: impl Fn(Client, String, String) -> F,
    ) -> Result<(Vec<T>, String)>
    where
        F: Future<Output = Result<(Vec<T>, String), Status>>,
    {
        let contexts = self.contexts(&ask.context)?;
        let (at, mut token) = match ask.token.split_once('/') {
            Some((at, token)) => (at.to_owned(), token.to_owned()),
            None => (ask.token.clone(), String::new()),
        };
        if !at.is_empty() && !contexts.contains(&at) {
            let what = "is not the next_page_token of a page of this list";
            return Err(Error::invalid("page_token", what));
        }
        let mut rows = Vec::new();
        let mut left = contexts.into_iter().skip_while(|context| *context < at).peekable();
        while let Some(context) = left.next() {
            loop {
                let (some, next) = page(self.client(&context)?, context.clone(), token).await?;
                rows.extend(some);
                token = next;
                if !ask.whole && !rows.is_empty() {
                    let next = match token.is_empty() {
                        false => format!("{context}/{token}"),
                        true => left.peek().cloned().unwrap_or_default(),
                    };
                    return Ok((rows, next));
                }
                if token.is_empty() {
                    break;
                }
            }
        }
        Ok((rows, String::new()))
    }
}

#[tonic::async_trait]
impl OperationsService for Gathered {
    async fn list_parked_events(
        &self,
        request: Request<api::ListParkedEventsRequest>,
    ) -> Result<Response<api::ListParkedEventsResponse>, Status> {
        let api::ListParkedEventsRequest { context, page_size, page_token } = request.into_inner();
        let ask = Ask { context, token: page_token, whole: false };
        let page = async |mut client: Client, context, page_token| {
            let request = api::ListParkedEventsRequest { context, page_size, page_token };
            let page = client.list_parked_events(request).await?.into_inner();
            Ok((page.parked_events, page.next_page_token))
        };
        let (parked_events, next_page_token) = self.gather(ask, page).await?;
        Ok(Response::new(api::ListParkedEventsResponse { parked_events, next_page_token }))
    }

    async fn replay_parked_events(
        &self,
        request: Request<api::ReplayParkedEventsRequest>,
    ) -> Result<Response<api::ReplayParkedEventsResponse>, Status> {
        let request = request.into_inner();
        let context = self.one(request.policy.split('/').next().unwrap_or_default())?;
        Ok(self.client(&context)?.replay_parked_events(request).await?)
    }

    async fn trim_log(
        &self,
        request: Request<api::TrimLogRequest>,
    ) -> Result<Response<api::TrimLogResponse>, Status> {
        let request = request.into_inner();
        let context = self.one(&request.context)?;
        Ok(self.client(&context)?.trim_log(request).await?)
    }

    async fn list_intents(
        &self,
        request: Request<api::ListIntentsRequest>,
    ) -> Result<Response<api::ListIntentsResponse>, Status> {
        let api::ListIntentsRequest { context, page_size, page_token } = request.into_inner();
        let ask = Ask { context, token: page_token, whole: false };
        let page = async |mut client: Client, context, page_token| {
            let request = api::ListIntentsRequest { context, page_size, page_token };
            let page = client.list_intents(request).await?.into_inner();
            Ok((page.intents, page.next_page_token))
        };
        let (intents, next_page_token) = self.gather(ask, page).await?;
        Ok(Response::new(api::ListIntentsResponse { intents, next_page_token }))
    }

    async fn list_policies(
        &self,
        request: Request<api::ListPoliciesRequest>,
    ) -> Result<Response<api::ListPoliciesResponse>, Status> {
        let api::ListPoliciesRequest { context, page_size, page_token } = request.into_inner();
        let ask = Ask { context, token: page_token, whole: page_size == 0 };
        let page = async |mut client: Client, context, page_token| {
            let request = api::ListPoliciesRequest { context, page_size, page_token };
            let page = client.list_policies(request).await?.into_inner();
            Ok((page.policies, page.next_page_token))
        };
        let (policies, next_page_token) = self.gather(ask, page).await?;
        Ok(Response::new(api::ListPoliciesResponse { policies, next_page_token }))
    }

    async fn list_edges(
        &self,
        request: Request<api::ListEdgesRequest>,
    ) -> Result<Response<api::ListEdgesResponse>, Status> {
        let api::ListEdgesRequest { context, page_size, page_token } = request.into_inner();
        let ask = Ask { context, token: page_token, whole: page_size == 0 };
        let page = async |mut client: Client, context, page_token| {
            let request = api::ListEdgesRequest { context, page_size, page_token };
            let page = client.list_edges(request).await?.into_inner();
            Ok((page.edges, page.next_page_token))
        };
        let (edges, next_page_token) = self.gather(ask, page).await?;
        Ok(Response::new(api::ListEdgesResponse { edges, next_page_token }))
    }

    type BackUpStream = Pin<Box<dyn Stream<Item = Result<api::BackUpResponse, Status>> + Send>>;

    /// Nobody can hold the writers of several processes at one moment: such a system is backed up while it stands still.
    async fn back_up(
        &self,
        _: Request<api::BackUpRequest>,
    ) -> Result<Response<Self::BackUpStream>, Status> {
        Err(Error::Unimplemented("a backup of a system of several processes that run".to_owned())
            .into())
    }
}
