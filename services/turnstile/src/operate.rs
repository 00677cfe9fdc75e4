//! What an operator looks at and puts right in a running system.

use std::time::Duration;

use proto::mesh::v1 as api;
use proto::mesh::v1::operations_service_client::OperationsServiceClient;

use crate::Outcome;
use crate::cli::{EventsAction, EventsOptions, OperateOptions};
use crate::client::{self, Failure, SignedIn};
use crate::settings::out;

async fn operations(at: &OperateOptions) -> Result<OperationsServiceClient<SignedIn>, Failure> {
    let channel = client::connect(&at.target).await?;
    let (_, admin) = client::sign_in(&channel, &at.admin, &client::admin_password()?).await?;
    Ok(OperationsServiceClient::new(admin))
}

/// `turnstile events parked`, `turnstile events replay`, `turnstile events trim`.
pub(crate) async fn events(options: EventsOptions) -> Outcome {
    if matches!(options.action, EventsAction::Trim { .. }) && options.at.context.is_empty() {
        return Err("say whose log it is: --context homemovie.app".into());
    }
    let mut operations = operations(&options.at).await?;
    match options.action {
        EventsAction::Parked => parked(&mut operations, options.at.context).await,
        EventsAction::Trim { keep_days, forget, dry_run } => {
            let age = Duration::from_secs(u64::from(keep_days) * 24 * 60 * 60);
            let request = api::TrimLogRequest {
                request_id: client::request_id(),
                context: options.at.context,
                before: Some((mesh::now() - age).into()),
                forget,
                validate_only: dry_run,
            };
            trim(&mut operations, request).await
        }
        EventsAction::Replay { policy, subject } => {
            let request = api::ReplayParkedEventsRequest {
                request_id: client::request_id(),
                policy,
                subject,
            };
            let answer = operations.replay_parked_events(request).await?.into_inner();
            out(format_args!(
                "{} replayed, {} still parked",
                answer.replayed_count, answer.parked_count
            ));
            if answer.parked_count > 0 { Err("some events failed again".into()) } else { Ok(()) }
        }
    }
}

async fn trim(
    operations: &mut OperationsServiceClient<SignedIn>,
    request: api::TrimLogRequest,
) -> Outcome {
    let mut count = 0;
    let done = loop {
        let done = operations.trim_log(request.clone()).await?.into_inner();
        count += done.trimmed_count;
        if request.validate_only || !done.more {
            break done;
        }
        out(format_args!("{count} removed so far, up to position {}", done.trimmed_position));
    };
    out(format_args!("{:<60} {:>10}", "POLICY", "READ UP TO"));
    for reader in &done.readers {
        let place = reader.cursor.as_ref().map_or(0, |cursor| cursor.position);
        let holds = if reader.holds { "  keeps what comes after" } else { "" };
        out(format_args!("{:<60} {place:>10}{holds}", reader.policy));
    }
    let found = match (request.validate_only, done.more) {
        (true, true) => "there is something to remove".to_owned(),
        (true, false) => "there is nothing to remove".to_owned(),
        (false, _) => format!("{count} removed"),
    };
    let missing = match done.trimmed_position {
        0 => "no event is missing".to_owned(),
        upto => format!("up to position {upto} events may be missing"),
    };
    out(format_args!("{found}; {missing}"));
    if done.readers.iter().any(|reader| reader.holds) {
        out(format_args!("a policy says how far it has read every five minutes: come again then"));
    }
    Ok(())
}

async fn parked(operations: &mut OperationsServiceClient<SignedIn>, context: String) -> Outcome {
    let mut request =
        api::ListParkedEventsRequest { context, page_size: 0, page_token: String::new() };
    let mut count = 0;
    loop {
        let page = operations.list_parked_events(request.clone()).await?.into_inner();
        for parked in page.parked_events {
            let event = parked.event.unwrap_or_default();
            let failure =
                if parked.failure.is_empty() { "waits behind another" } else { &parked.failure };
            count += 1;
            out(format_args!(
                "{}\n  {} {}@{} (event {})\n  {} tries: {failure}",
                parked.policy,
                event.r#type,
                event.subject,
                event.sequence,
                event.event_id,
                parked.attempts
            ));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if count == 0 {
        out(format_args!("no event is parked"));
    }
    Ok(())
}

/// `turnstile intents`.
pub(crate) async fn intents(options: OperateOptions) -> Outcome {
    let mut operations = operations(&options).await?;
    let mut request = api::ListIntentsRequest {
        context: options.context,
        page_size: 0,
        page_token: String::new(),
    };
    let mut count = 0;
    loop {
        let page = operations.list_intents(request.clone()).await?.into_inner();
        for intent in page.intents {
            let failure = if intent.last_failure.is_empty() { "" } else { ": " };
            count += 1;
            out(format_args!(
                "{} {} {:?}, {} undo attempts{failure}{}",
                intent.command,
                intent.name,
                intent.state(),
                intent.undo_attempts,
                intent.last_failure
            ));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if count == 0 {
        out(format_args!("no order is left between two states"));
    }
    Ok(())
}

/// `turnstile policies`.
pub(crate) async fn policies(options: OperateOptions) -> Outcome {
    let mut operations = operations(&options).await?;
    let mut request = api::ListPoliciesRequest {
        context: options.context,
        page_size: 0,
        page_token: String::new(),
    };
    out(format_args!("{:<60} {:>7} {:>6}  {}", "POLICY", "LAG", "PARKED", "READS"));
    loop {
        let page = operations.list_policies(request.clone()).await?.into_inner();
        for policy in page.policies {
            out(format_args!(
                "{:<60} {:>7} {:>6}  {}",
                policy.name, policy.lag, policy.parked_count, policy.source
            ));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

/// `turnstile edges`.
pub(crate) async fn edges(options: OperateOptions) -> Outcome {
    let mut operations = operations(&options).await?;
    let mut request =
        api::ListEdgesRequest { context: options.context, page_size: 0, page_token: String::new() };
    out(format_args!(
        "{:<52} {:<9} {:>6} {:>9} {:>8} {:>9}",
        "EDGE", "BREAKER", "OPENED", "SENT", "FAILED", "FALLBACKS"
    ));
    loop {
        let page = operations.list_edges(request.clone()).await?.into_inner();
        for edge in page.edges {
            out(format_args!(
                "{:<52} {:<9} {:>6} {:>9} {:>8} {:>9}",
                edge.name,
                edge.breaker().as_str_name().trim_start_matches("BREAKER_"),
                edge.open_count,
                edge.sent_count,
                edge.failure_count,
                edge.fallback_count
            ));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}
