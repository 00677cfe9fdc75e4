//! One function per RPC.

use mesh::watch::WatchStream;
use mesh::{Caller, Cause, Check, Error, Page, Store, Tx, Watchers};
use proto::notice::v1 as api;
use proto::notice::v1::notice_service_server::NoticeService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::directory::Directory;
use crate::domain::{Language, Medium, Message, Notice};
use crate::sender::Sender;
use crate::store::{self, Before};
use crate::wire::SendNotice;
use crate::{follow, texts};

/// How many notices a page has unless said.
const PAGE: u16 = 50;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) directory: Directory,
    pub(crate) senders: Vec<Sender>,
    pub(crate) inboxes: Watchers<()>,
    pub(crate) stopping: CancellationToken,
}

#[tonic::async_trait]
impl NoticeService for Service {
    async fn send_notice(
        &self,
        request: Request<api::SendNoticeRequest>,
    ) -> Result<Response<api::SendNoticeResponse>, Status> {
        let (_, request) = Caller::of(request)?;
        let send: SendNotice = request.try_into()?;

        let notice = self.send(send).await?.map(Into::into);
        Ok(Response::new(api::SendNoticeResponse { notice }))
    }

    async fn list_notices(
        &self,
        request: Request<api::ListNoticesRequest>,
    ) -> Result<Response<api::ListNoticesResponse>, Status> {
        let (caller, request) = Caller::of(request)?;
        let recipient = caller.account()?.to_string();
        let mut check = Check::new();
        let order = Some(&request.order).filter(|order| !order.is_empty());
        let order = order.map(|order| check.any_name("order", order));
        let list = format!("notices of {recipient} for {order:?}, as they were told");
        let page = self.store.page(&mut check, &list, request.page_size, PAGE, &request.page_token);
        check.finish()?;

        let part = page.clone();
        let work = move |conn: &mut _| store::list(conn, &recipient, order.as_deref(), &part);
        let (notices, next_page_token) = page
            .cut(self.store.read(work).await?, |notice| Page::place(notice.sequence, notice.id));
        let notices = notices.into_iter().map(Into::into).collect();
        Ok(Response::new(api::ListNoticesResponse { notices, next_page_token }))
    }

    type WatchNoticesStream = WatchStream<api::WatchNoticesResponse>;

    async fn watch_notices(
        &self,
        request: Request<api::WatchNoticesRequest>,
    ) -> Result<Response<Self::WatchNoticesStream>, Status> {
        let (caller, request) = Caller::of(request)?;
        let recipient = caller.account()?.to_string();
        let seen = self.resume_token(&request.resume_token).await?;

        let (store, inboxes) = (self.store.clone(), self.inboxes.clone());
        let notices = follow::inbox(store, inboxes, self.stopping.clone(), recipient, seen);
        Ok(Response::new(Box::pin(notices)))
    }
}

impl Service {
    /// Tells it, unless it was told or must not be told any more.
    async fn send(&self, send: SendNotice) -> mesh::Result<Option<Notice>> {
        // Identity is not asked about what is told again.
        if !self.directory.knows(send.recipient) {
            let asked = send.clone();
            let before = move |conn: &mut _| {
                store::before(conn, &asked.order, asked.kind, &asked.unless_kinds)
            };
            match self.store.look_up(before).await? {
                Before::Nothing => {}
                Before::Same(notice) => return Ok(Some(*notice)),
                Before::Other => return Ok(None),
            }
        }
        let language = self.directory.language(send.recipient).await;
        let media: Vec<_> = self.senders.iter().map(Sender::medium).collect();
        let cause = Cause::current(&send.request_id);
        let work = move |tx: &mut Tx<'_>| tell(tx, send, language, &media);
        let notice = self.store.write_because(cause, work).await?;
        self.senders.iter().for_each(Sender::wake);
        Ok(notice)
    }

    /// Where a stream goes on.
    async fn resume_token(&self, text: &str) -> mesh::Result<Option<i64>> {
        if text.is_empty() {
            return Ok(None);
        }
        let last = self.store.read(store::last_sequence).await?;
        let seen = text.parse().ok().filter(|seen| (0..=last).contains(seen));
        let bad = || Error::invalid("resume_token", "must be a resume_token of this stream");
        seen.map(Some).ok_or_else(bad)
    }
}

/// Puts it into the inbox and queues it for the other media, in one transaction with its event: once, whoever asks at
/// the same time.
fn tell(
    tx: &mut Tx<'_>,
    send: SendNotice,
    language: Language,
    media: &[Medium],
) -> mesh::Result<Option<Notice>> {
    let SendNotice { recipient, order, kind, parameters, unless_kinds, .. } = send;
    match store::before(tx, &order, kind, &unless_kinds)? {
        Before::Nothing => {}
        Before::Same(notice) => return Ok(Some(*notice)),
        Before::Other => return Ok(None),
    }
    let text = texts::render(kind, language, &parameters);
    let message = Message { recipient, order, kind, language, text };
    let now = tx.now();
    let sequence = tx.next_of(&store::SEQUENCE)?;
    for medium in media {
        store::insert(tx, &Notice::queued(message.clone(), *medium, sequence, now))?;
    }
    let notice = Notice::inbox(message, sequence, now);
    store::insert(tx, &notice)?;
    tx.publish(notice.id, &notice.message.order, &api::Noticed::from(&notice))?;
    Ok(Some(notice))
}
