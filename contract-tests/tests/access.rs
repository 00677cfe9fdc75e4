//! Who may call what: every identity and every RPC, against what the contract says (rule G-16).

use std::collections::BTreeSet;

use contract_tests::world::{Identity, World, events, methods, path_of, rule};
use contract_tests::{every_context, raw};
use mesh::contract::{Contract, Rule, context_of};
use mesh_testing::{Authority, TestMesh, uri};
use prost::Message as _;
use proto::mesh::v1::{Access, SubscribeRequest};
use tonic::{Code, Status};

const SUBSCRIBE: &str = "turnstile.mesh.v1.EventService/Subscribe";

/// What stands between somebody and a method; none: nothing does.
fn barrier(rule: &Rule, who: &Identity) -> Option<Code> {
    match (rule.access, who) {
        (Access::Public, _) => None,
        (Access::Customer | Access::Admin, Identity::Nobody | Identity::Context(_)) => {
            Some(Code::Unauthenticated)
        }
        (Access::Customer, _) | (Access::Admin, Identity::Admin) => None,
        (Access::Admin, _) => Some(Code::PermissionDenied),
        (Access::Service, Identity::Context(context)) => {
            let may = rule.callers.iter().any(|caller| caller == "*" || caller == context);
            (!may).then_some(Code::PermissionDenied)
        }
        // From outside there is no such method.
        (Access::Service, _) => Some(Code::Unimplemented),
        (Access::Unspecified, _) => Some(Code::PermissionDenied),
    }
}

/// The barrier that an answer tells of. What comes behind it is another matter.
fn met(answer: &Result<Vec<u8>, Status>) -> Option<Code> {
    let barriers = [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented];
    answer.as_ref().err().map(Status::code).filter(|code| barriers.contains(code))
}

fn contexts() -> BTreeSet<String> {
    let rules = Contract::ours().expect("contracts").rules();
    rules.map(|rule| rule.context.clone()).filter(|context| context != "mesh").collect()
}

#[tokio::test]
async fn s_16_s_23_every_identity_meets_every_rpc_as_its_contract_says() {
    let world = World::start().await;
    let people = [Identity::Nobody, Identity::Customer, Identity::OtherCustomer, Identity::Admin];
    let contexts: Vec<_> = contexts().into_iter().map(Identity::Context).collect();
    assert!(contexts.len() >= 8, "{contexts:?}");
    let mut wrong = Vec::new();
    for method in methods() {
        let path = path_of(&method);
        let rule = rule(&path);
        for who in people.iter().chain(&contexts) {
            // Nothing is asked for: what lets it in does nothing.
            let answer = world.call(who, &path, Vec::new()).await;
            if met(&answer) != barrier(&rule, who) {
                wrong.push(format!("{path} by {who:?}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn s_16_each_context_is_told_the_events_that_name_it_and_no_others() {
    let world = World::start().await;
    let contract = Contract::ours().expect("contracts");
    let subscribe = async |reader: &str, policy: &str, source: &str, types: &[String]| {
        let (source, policy, types) = (source.to_owned(), policy.to_owned(), types.to_vec());
        let request = SubscribeRequest { source, policy, types, ..Default::default() };
        let who = Identity::Context(reader.to_owned());
        let answer = world.call(&who, SUBSCRIBE, request.encode_to_vec()).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let (mut wrong, mut told) = (Vec::new(), BTreeSet::new());
    let events = events();
    assert!(events.len() > 20, "{events:?}");
    for reader in contexts() {
        let policy = format!("{reader}/a_test");
        for event in &events {
            let source = context_of(event);
            let named = |name: &String| name == "*" || *name == reader;
            let may = reader == source || contract.readers(event).iter().any(named);
            let expected = if may { Code::Ok } else { Code::PermissionDenied };
            let answer = subscribe(&reader, &policy, source, std::slice::from_ref(event)).await;
            if answer != expected {
                wrong.push(format!("{event} by {reader}: {answer:?}"));
            }
            if may {
                told.insert((reader.clone(), source));
            }
        }
        // Whoever asks for nothing in particular is told what it may read, and refused where that is nothing.
        for source in contexts() {
            let may = told.iter().any(|(who, of)| *who == reader && **of == *source);
            let expected = if may { Code::Ok } else { Code::PermissionDenied };
            let answer = subscribe(&reader, &policy, &source, &[]).await;
            let has_events = events.iter().any(|event| context_of(event) == source);
            if answer != expected && (has_events || reader != source) {
                wrong.push(format!("the log of {source} by {reader}: {answer:?}"));
            }
        }
        let of_another = if reader == "payment" { "notice/a_test" } else { "payment/a_test" };
        let answer = subscribe(&reader, of_another, &reader, &[]).await;
        assert_eq!(answer, Code::InvalidArgument, "{reader} as {of_another}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s_16_a_certificate_opens_what_its_context_may_call_and_nothing_else() {
    let authority = Authority::new();
    let shows = authority.issue("payment");
    let there = TestMesh::start_with(&every_context(), |options| {
        options.port_tls = Some(shows.tls());
        options.faces_customers = false;
    })
    .await;
    let mut wrong = Vec::new();
    // Also one that has a certificate, and is no context.
    for context in contexts().into_iter().chain(["turnstile".to_owned()]) {
        let shows = authority.issue_with("caller", |params| {
            params.subject_alt_names = vec![uri("example.org", &context)];
        });
        let here = TestMesh::start_with(&[], |options| {
            options.tls = Some(shows.tls());
            let address = format!("https://{}", there.address());
            options.endpoints.insert("payment".to_owned(), address);
        })
        .await;
        // Whatever it says of itself.
        let channel = here.service("identity", "payment");
        for method in methods() {
            let path = path_of(&method);
            let answer = raw::call(channel.clone(), &path, Vec::new(), None).await;
            let caller = Identity::Context(context.clone());
            if met(&answer) != barrier(&rule(&path), &caller) {
                wrong.push(format!("{path} by {context}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn s_10_a_token_that_is_not_good_opens_no_rpc() {
    let world = World::start().await;
    let good = &world.customer.token;
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let tokens = [
        ("expired", world.mesh.expired().token),
        ("forged", String::from_utf8(forged).expect("a text")),
        ("backwards", good.chars().rev().collect()),
        ("nothing", String::new()),
    ];
    for method in methods() {
        let path = path_of(&method);
        let expected = match rule(&path).access {
            Access::Public => None,
            Access::Service => Some(Code::Unimplemented),
            _ => Some(Code::Unauthenticated),
        };
        for (what, token) in &tokens {
            let answer =
                raw::call(world.mesh.stranger(), &path, Vec::new(), Some(token.as_str())).await;
            assert_eq!(met(&answer), expected, "{path} with a token that is {what}: {answer:?}");
        }
    }
}
