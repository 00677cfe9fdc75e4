//! Between the domain and the contract.

use mesh::{Accounts, Check, Error, Id, Result};
use proto::notice::v1 as api;
use tonic::Code;

use crate::domain::{Kind, Medium, Notice, Refusal, State};
use crate::texts::Parameters;

/// The most characters of the name of a kind.
const LONGEST_KIND: usize = 63;
/// The most characters of a title.
const LONGEST_TITLE: usize = 200;
/// The most kinds that a notice must not follow.
const MOST_KINDS: usize = 16;

/// Something that is to be told.
#[derive(Debug, Clone)]
pub(crate) struct SendNotice {
    pub(crate) request_id: String,
    pub(crate) recipient: Id<Accounts>,
    pub(crate) order: String,
    pub(crate) kind: Kind,
    pub(crate) parameters: Parameters,
    pub(crate) unless_kinds: Vec<String>,
}

impl TryFrom<api::SendNoticeRequest> for SendNotice {
    type Error = Error;

    fn try_from(request: api::SendNoticeRequest) -> Result<Self> {
        let mut check = Check::command(&request);
        let recipient = check.id("recipient", &request.recipient);
        let order = check.any_name("order", &request.order);
        let kind = check.text("kind", &request.kind, 1..=LONGEST_KIND);
        let parameters = parameters(&mut check, &request);
        if request.unless_kinds.len() > MOST_KINDS {
            check.bad("unless_kinds", format_args!("must be at most {MOST_KINDS}"));
        }
        for (index, kind) in request.unless_kinds.iter().enumerate().take(MOST_KINDS) {
            check.text(&format!("unless_kinds[{index}]"), kind, 1..=LONGEST_KIND);
        }
        check.finish()?;
        let kind = Kind::of(&kind).ok_or(Refusal::KindUnknown(kind))?;
        let api::SendNoticeRequest { request_id, unless_kinds, .. } = request;
        Ok(Self { request_id, recipient, order, kind, parameters, unless_kinds })
    }
}

/// What a text is filled in with. One that no text has is left out: a newer caller may know more.
fn parameters(check: &mut Check, request: &api::SendNoticeRequest) -> Parameters {
    let given = |name: &str| request.parameters.get(name).filter(|value| !value.is_empty());
    let title =
        given("title").map(|title| check.text("parameters.title", title, 1..=LONGEST_TITLE));
    let seats = given("seats").and_then(|seats| {
        let seats = seats.parse().ok();
        if seats.is_none() {
            check.bad("parameters.seats", "must be a whole number");
        }
        seats
    });
    Parameters { title, seats }
}

impl From<Notice> for api::Notice {
    fn from(notice: Notice) -> Self {
        let medium = match notice.medium {
            Medium::Inbox => api::notice::Medium::Inbox,
            Medium::Email => api::notice::Medium::Email,
            Medium::Webhook => api::notice::Medium::Webhook,
        };
        let state = match notice.state {
            State::Queued => api::notice::State::Queued,
            State::Sent => api::notice::State::Sent,
            State::Failed => api::notice::State::Failed,
        };
        Self {
            name: notice.id.to_string(),
            recipient: notice.message.recipient.to_string(),
            order: notice.message.order,
            kind: notice.message.kind.word().to_owned(),
            text: notice.message.text,
            medium: medium.into(),
            state: state.into(),
            attempts: i32::try_from(notice.attempts).unwrap_or(i32::MAX),
            create_time: Some(notice.created.into()),
        }
    }
}

/// What is told of a notice: neither the text nor an address.
impl From<&Notice> for api::Noticed {
    fn from(notice: &Notice) -> Self {
        Self {
            notice: notice.id.to_string(),
            recipient: notice.message.recipient.to_string(),
            order: notice.message.order.clone(),
            kind: notice.message.kind.word().to_owned(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal::KindUnknown(kind) = &refusal;
        let reason = api::ErrorReason::KindUnknown.as_str_name();
        Self::refused(crate::NAME, reason, &refusal).code(Code::InvalidArgument).with("kind", kind)
    }
}
