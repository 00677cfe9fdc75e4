//! Who may call what: every identity and every RPC, against what the contract says (rule G-16).

use std::collections::BTreeSet;

use contract_tests::raw;
use contract_tests::world::{Identity, World, methods, path_of, rule};
use mesh::contract::{Contract, Rule};
use proto::mesh::v1::Access;
use tonic::{Code, Status};

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
async fn s_16_every_identity_meets_every_rpc_as_its_contract_says() {
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
