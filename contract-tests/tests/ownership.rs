//! What is somebody else's is not there: every RPC that a customer may call, with the names of another one.

use std::collections::BTreeMap;
use std::time::Duration;

use contract_tests::requests::new;
use contract_tests::world::{Identity, World, methods, path_of, rule};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, MethodDescriptor, Value};
use proto::mesh::v1::Access;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What customers may call.
fn of_customers() -> impl Iterator<Item = MethodDescriptor> {
    methods().into_iter().filter(|method| rule(&path_of(method)).access == Access::Customer)
}

fn valid(world: &World, method: &MethodDescriptor) -> DynamicMessage {
    let path = path_of(method);
    let valid = world.valid(&path).unwrap_or_else(|| panic!("{path} has no valid request"));
    DynamicMessage::decode(method.input(), &valid[..]).expect("a valid request")
}

/// What is the customer's alone.
fn owned(world: &World) -> Vec<&String> {
    let orders = world.applications.iter().chain(&world.reservations);
    orders.chain([&world.payment]).collect()
}

/// The fields in which a request names what is the customer's.
fn names(world: &World, request: &DynamicMessage) -> Vec<(FieldDescriptor, String)> {
    let owned = owned(world);
    let named = request.fields().filter_map(|(field, value)| {
        let name = value.as_str()?.to_owned();
        owned.contains(&&name).then_some((field, name))
    });
    named.collect()
}

/// All that a refusal says, with the name taken out.
fn told(answer: &Result<Vec<u8>, Status>, name: &str) -> String {
    let status = answer.as_ref().expect_err("a refusal");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    let said = format!("{:?} {} {details}", status.code(), status.message());
    let uuid = name.split('/').nth(1).expect("a name");
    said.replace(uuid, "...")
}

fn shows(answer: &[u8], world: &World) -> bool {
    let secrets = owned(world).into_iter().map(String::as_str);
    let customer = world.customer.id.to_string();
    let mut secrets = secrets.chain([customer.as_str()]);
    secrets.any(|secret| answer.windows(secret.len()).any(|part| part == secret.as_bytes()))
}

#[tokio::test]
async fn s_20_what_is_somebody_elses_is_refused_like_what_is_not_there() {
    let world = World::start().await;
    let mut tried = BTreeMap::new();
    for method in of_customers() {
        let (path, request) = (path_of(&method), valid(&world, &method));
        // A list of what is about one order is empty: see the lists.
        if method.name().starts_with("List") {
            continue;
        }
        for (field, name) in names(&world, &request) {
            let theirs = world.call(&Identity::OtherCustomer, &path, request.encode_to_vec()).await;
            let nothing = new(name.split('/').next().expect("a collection"));
            let mut missing = request.clone();
            missing.set_field(&field, Value::String(nothing.clone()));
            let missing =
                world.call(&Identity::OtherCustomer, &path, missing.encode_to_vec()).await;
            assert_eq!(
                theirs.as_ref().map_err(Status::code),
                Err(Code::NotFound),
                "{path}: {theirs:?}"
            );
            assert_eq!(told(&theirs, &name), told(&missing, &nothing), "{path}");
            tried.insert(path.clone(), field.name().to_owned());
        }
    }
    assert!(tried.len() >= 11, "{tried:?}");
    // Nothing of it had an effect: the customer still has everything.
    for path in tried.keys() {
        let request = world.valid(path).expect("a valid request");
        let answer = world.call(&Identity::Customer, path, request).await;
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn s_21_lists_and_streams_show_nothing_of_somebody_else() {
    let world = World::start().await;
    let mut tried = Vec::new();
    for method in of_customers() {
        let (path, request) = (path_of(&method), valid(&world, &method));
        let is_list = method.name().starts_with("List");
        let about_all = method.is_server_streaming() && names(&world, &request).is_empty();
        if !is_list && !about_all {
            continue;
        }
        let own = world.call(&Identity::Customer, &path, request.encode_to_vec()).await;
        let own = own.expect("a list");
        assert!(shows(&own, &world), "{path}: there is something to see");
        if is_list {
            let others = world.call(&Identity::OtherCustomer, &path, request.encode_to_vec()).await;
            assert!(!shows(&others.expect("a list"), &world), "{path}");
        }
        tried.push((path, method));
    }
    assert!(tried.len() >= 7, "{tried:?}");
    // A page or a place in a stream that is somebody else's is no way in, either.
    for (path, method) in tried {
        let mut request = valid(&world, &method);
        if request.has_field_by_name("order") {
            request.clear_field_by_name("order");
        }
        let first = world.call(&Identity::Customer, &path, request.encode_to_vec()).await;
        let first = DynamicMessage::decode(method.output(), &first.expect("an answer")[..]);
        let first = first.expect("an answer that reads");
        let (given, asked) = match method.is_server_streaming() {
            true => ("resume_token", "resume_token"),
            false => ("next_page_token", "page_token"),
        };
        let token = first.get_field_by_name(given).expect("a token").into_owned();
        assert!(token.as_str().is_some_and(|token| !token.is_empty()), "{path}: there is more");
        request.set_field_by_name(asked, token);
        let answer = world.call(&Identity::OtherCustomer, &path, request.encode_to_vec());
        if method.is_server_streaming() {
            // Nothing may ever come; what comes is not the customer's.
            let heard = timeout(Duration::from_millis(300), answer).await;
            let heard = heard.ok().and_then(Result::ok).unwrap_or_default();
            assert!(!shows(&heard, &world), "{path}");
            continue;
        }
        let answer = answer.await;
        let status = answer.expect_err("a page of somebody else's");
        let named = status.get_details_bad_request().expect("the bad field").field_violations;
        assert_eq!(named[0].field, "page_token", "{path}: {status:?}");
    }
}

#[tokio::test]
async fn s_21_a_revision_of_something_else_is_no_place_to_resume() {
    let world = World::start().await;
    let mut tried = 0;
    for method in of_customers() {
        let (path, mut request) = (path_of(&method), valid(&world, &method));
        if method.input().get_field_by_name("resume_revision").is_none() {
            continue;
        }
        for name in [&world.applications[1], &world.reservations[1]] {
            request.set_field_by_name("resume_revision", Value::String(format!("{name}@1")));
            let answer = world.call(&Identity::Customer, &path, request.encode_to_vec()).await;
            let status = answer.expect_err("another's revision");
            let named = status.get_details_bad_request().expect("the bad field").field_violations;
            assert_eq!(named[0].field, "resume_revision", "{path}: {status:?}");
            tried += 1;
        }
    }
    assert!(tried >= 4, "{tried}");
}
