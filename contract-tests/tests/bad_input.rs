//! Bad requests for every RPC, made from valid ones field by field: a new RPC or field cannot be forgotten.

use std::collections::BTreeSet;

use contract_tests::mutation::{self, Bad};
use contract_tests::world::{World, may_call, methods, path_of, rule};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What is good though it looks bad: method, field, in which way, and why.
const SPARED: &[(&str, &str, &str, &str)] = &[
    ("*", "order", "another collection", "an order is of any system"),
    ("GetMyOrder", "name", "another collection", "an order is of any system"),
    ("ListNotices", "order", "missing", "all are listed"),
    ("ListPayments", "order", "missing", "all are listed"),
    ("ListParkedEvents", "context", "missing", "all are listed"),
    ("ListIntents", "context", "missing", "all are listed"),
    ("ListPolicies", "context", "missing", "all are listed"),
    ("ListEdges", "context", "missing", "all are listed"),
    ("ReplayParkedEvents", "subject", "missing", "all are replayed"),
    ("ReplayParkedEvents", "subject", "another collection", "a subject is of any context"),
    ("ReplayParkedEvents", "subject", "no UUID", "a subject is of any context"),
    ("ReplayParkedEvents", "subject", "a path", "a subject is of any context"),
    ("ReplayParkedEvents", "subject", "SQL", "a subject is of any context"),
    ("RegisterMovie", "media", "missing", "it comes later"),
    ("SignUp", "display_name", "missing", "the email tells"),
    ("SignUp", "language_code", "missing", "English"),
    ("RegisterMusical", "venue", "missing", "it comes later"),
    ("RegisterMusical", "sales_start_time", "missing", "at once"),
    ("RegisterMusical", "sales_end_time", "missing", "until the performance"),
    ("ChangeMusical", "title", "missing", "it stays"),
    ("ChangeMusical", "venue", "missing", "it stays"),
    ("ChangeMusical", "performance_time", "missing", "it stays"),
    ("ChangeMusical", "sales_start_time", "missing", "it stays"),
    ("ChangeMusical", "sales_end_time", "missing", "it stays"),
    ("ChangeMusical", "price_per_seat", "missing", "it stays"),
    ("CancelPayment", "refund", "missing", "all of it"),
    ("CancelPayment", "refund.minor_units", "nothing", "the fee is all of it"),
];

/// Commands that are known by their order: the same order is the same command, whatever its `request_id`, which says
/// only what caused it. What is replayed is known by its policy, what is trimmed by its age,
/// a backup by its name.
const KNOWN_OTHERWISE: [&str; 8] = [
    "Pay",
    "CancelPayment",
    "SendNotice",
    "ReserveSeats",
    "ReturnSeats",
    "ReplayParkedEvents",
    "TrimLog",
    "BackUp",
];

/// Which of them spares this one.
fn spared(method: &str, bad: &Bad) -> Option<usize> {
    SPARED.iter().position(|(of, field, what, _)| {
        (*of == "*" || method.ends_with(of)) && *field == bad.field && *what == bad.what
    })
}

/// What must never be in a message to a client.
const INSIDE: [&str; 10] =
    ["SELECT", "INSERT", "sqlite", "diesel", "panic", ".rs", "/tmp", "src/", "thread", "::"];

/// What is wrong with how a bad request was refused.
fn fault(answer: &Result<Vec<u8>, Status>, fields: &[String]) -> Option<String> {
    let Err(status) = answer else { return Some("it was carried out".to_owned()) };
    if let Some(word) = INSIDE.iter().find(|word| status.message().contains(*word)) {
        return Some(format!("it tells of its inside, {word}: {status:?}"));
    }
    if status.message().chars().any(char::is_control) || status.message().len() > 10_000 {
        return Some(format!("it says back what it was told: {status:?}"));
    }
    let named =
        status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let all = fields.iter().all(|field| named.iter().any(|violation| violation.field == *field));
    let well = status.code() == Code::InvalidArgument && all;
    (!well).then(|| format!("{:?}, {}", status.code(), status.message()))
}

fn bad_ones(world: &World, path: &str, input: &MessageDescriptor) -> Vec<Bad> {
    let valid = world.valid(path).unwrap_or_else(|| panic!("{path} has no valid request"));
    mutation::of(input, &valid)
}

#[tokio::test]
async fn g13_every_bad_field_of_every_rpc_is_refused_by_its_name() {
    let world = World::start().await;
    let (mut wrong, mut tried, mut needed) = (Vec::new(), 0, BTreeSet::new());
    for method in methods() {
        let path = path_of(&method);
        let who = may_call(&rule(&path));
        let mut bad = bad_ones(&world, &path, &method.input());
        bad.retain(|bad| spared(&path, bad).map(|exception| needed.insert(exception)).is_none());
        for Bad { field, what, request } in &bad {
            let answer = world.call(&who, &path, request.encode_to_vec()).await;
            if let Some(fault) = fault(&answer, std::slice::from_ref(field)) {
                wrong.push(format!("{path}: {field}, {what}: {fault}"));
            }
            tried += 1;
        }
        if let Some((request, fields)) = mutation::all_at_once(&bad) {
            let answer = world.call(&who, &path, request.encode_to_vec()).await;
            if let Some(fault) = fault(&answer, &fields) {
                wrong.push(format!("{path}: {fields:?} at once: {fault}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}: {wrong:#?}", wrong.len());
    assert!(tried > 300, "{tried} bad requests");
    let idle: Vec<_> = (0..SPARED.len()).filter(|number| !needed.contains(number)).collect();
    assert!(idle.is_empty(), "nobody needs the exceptions {idle:?}");
    // And the next good calls work.
    for method in methods() {
        let path = path_of(&method);
        let valid = world.valid(&path).expect("a valid request");
        let answer = world.call(&may_call(&rule(&path)), &path, valid).await;
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn g13_s_26_every_rpc_answers_rubbish_with_a_clear_error() {
    let world = World::start().await;
    // A text in field 1 that is no name; bad UTF-8; a length that lies; a number where a text is; a field without an end.
    let bodies: [&[u8]; 6] = [
        b"\x0a\x05../..",
        b"\x0a\x02\xff\xfe",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x08\x96\x01",
        b"\x0a",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for method in methods() {
        let path = path_of(&method);
        for body in bodies {
            let answer = world.call(&may_call(&rule(&path)), &path, body.to_vec()).await;
            let Err(status) = answer else { continue };
            let undecodable =
                status.code() == Code::Internal && status.message().contains("decode");
            let planned = [Code::InvalidArgument, Code::NotFound, Code::Unauthenticated];
            assert!(
                planned.contains(&status.code()) || undecodable,
                "{path} answers {body:?} with {status}"
            );
            for word in INSIDE.iter().filter(|word| !(undecodable && **word == "::")) {
                assert!(!status.message().contains(word), "{path} tells of its inside: {status}");
            }
        }
    }
}

/// The valid request, about something else.
fn about_something_else(input: &MessageDescriptor, valid: &[u8]) -> Option<DynamicMessage> {
    let mut request = DynamicMessage::decode(input.clone(), valid).expect("a valid request");
    let field = input.fields().filter(|field| field.name() != "request_id").find(|field| {
        let kind = field.kind();
        let text = matches!(kind, prost_reflect::Kind::String) && !field.is_list();
        text && request.has_field(field)
    })?;
    let value = request.get_field(&field).as_str().expect("a text").to_owned();
    let other = match value.split_once('/') {
        Some((collection, _)) => contract_tests::requests::new(collection),
        None => format!("{value} too"),
    };
    request.set_field(&field, prost_reflect::Value::String(other));
    Some(request)
}

#[tokio::test]
async fn g6_a_request_id_means_one_request_of_every_rpc_that_takes_one() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for method in methods() {
        let (path, input) = (path_of(&method), method.input());
        if input.get_field_by_name("request_id").is_none() {
            continue;
        }
        let who = may_call(&rule(&path));
        let valid = world.valid(&path).expect("a valid request");
        let first = world.call(&who, &path, valid.clone()).await;
        let again = world.call(&who, &path, valid.clone()).await;
        // What a stream tells first is how far it is.
        let told_the_same = format!("{first:?}") == format!("{again:?}");
        if first.is_err() || !(told_the_same || method.is_server_streaming() && again.is_ok()) {
            wrong.push(format!("{path}: {first:?}, then {again:?}"));
        }
        if KNOWN_OTHERWISE.contains(&method.name()) {
            continue;
        }
        let Some(other) = about_something_else(&input, &valid) else { continue };
        let answer = world.call(&who, &path, other.encode_to_vec()).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        if code != Code::AlreadyExists {
            wrong.push(format!("{path} about something else: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn s_22_what_a_contract_does_not_know_has_no_effect() {
    let world = World::start().await;
    // Fields 500 to 502, as a client would guess at state, owner and role.
    let mut guesses = vec![0xa0, 0x1f, 0x03];
    for (tag, text) in [([0xaa, 0x1f], world.other.id.to_string()), ([0xb2, 0x1f], "ADMIN".into())]
    {
        guesses.extend(tag);
        guesses.push(u8::try_from(text.len()).expect("a short text"));
        guesses.extend(text.bytes());
    }
    for method in methods() {
        let path = path_of(&method);
        let mut request = world.valid(&path).expect("a valid request");
        request.extend_from_slice(&guesses);
        let answer = world.call(&may_call(&rule(&path)), &path, request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{path}: {status:?}"));
        let other = world.other.id.to_string();
        let leaked = answer.windows(other.len()).any(|part| part == other.as_bytes());
        assert!(!leaked, "{path} took the owner that it was given");
    }
}

/// What only the server says is in no request of who is not trusted with it.
#[test]
fn s_22_no_customer_gives_a_price_an_owner_a_role_or_a_state() {
    let mut seen = 0;
    for method in methods() {
        let access = rule(&path_of(&method)).access;
        let outside = [proto::mesh::v1::Access::Public, proto::mesh::v1::Access::Customer];
        if !outside.contains(&access) {
            continue;
        }
        for field in method.input().fields() {
            let told = ["state", "price", "amount", "fee", "refund", "owner", "customer", "role"];
            let word = told.iter().find(|word| field.name().contains(*word));
            assert!(word.is_none(), "{} takes {}", method.full_name(), field.name());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} fields");
}
