//! Rules over all contracts, read from their descriptors: a new RPC cannot be forgotten.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use contract_tests::world::events;
use contract_tests::{every_context, raw};
use mesh::contract::{Contract, Rule, context_of};
use mesh_testing::{TestMesh, eventually};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use proto::mesh::v1::operations_service_client::OperationsServiceClient;
use proto::mesh::v1::{Access, ListPoliciesRequest, Policy};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTORS).unwrap()
}

fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let ours = pool.services().filter(|service| service.full_name().starts_with("turnstile."));
    ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

fn rule(method: &MethodDescriptor) -> Rule {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    (**Contract::ours().unwrap().rule(&path).unwrap()).clone()
}

/// Every context that has a contract.
fn contexts() -> BTreeSet<String> {
    let rules = Contract::ours().unwrap().rules();
    rules.map(|rule| rule.context.clone()).filter(|context| context != "mesh").collect()
}

fn has(message: &MessageDescriptor, field: &str) -> bool {
    message.get_field_by_name(field).is_some()
}

#[test]
fn g17_every_list_is_paged() {
    for method in methods(&pool()).iter().filter(|method| method.name().starts_with("List")) {
        let (input, output) = (method.input(), method.output());
        assert!(has(&input, "page_size") && has(&input, "page_token"), "{}", method.full_name());
        assert!(has(&output, "next_page_token"), "{}", method.full_name());
    }
}

#[test]
fn g6_every_command_takes_a_request_id() {
    // No password or token is ever stored with a request.
    let outside = ["SignUp", "SignIn", "RefreshToken", "SignOut"];
    for method in methods(&pool()) {
        let level = method
            .options()
            .get_field_by_name("idempotency_level")
            .and_then(|level| level.as_enum_number());
        let reads = level == Some(1);
        let expected = !reads && !outside.contains(&method.name());
        assert_eq!(has(&method.input(), "request_id"), expected, "{}", method.full_name());
    }
}

#[test]
fn g18_every_watch_is_a_stream_that_can_be_resumed() {
    // WatchMovie is the customer watching a film.
    for method in methods(&pool()) {
        let follows = method.name().starts_with("Watch") && method.name() != "WatchMovie";
        assert!(!follows || method.is_server_streaming(), "{}", method.full_name());
        if follows {
            let input = method.input();
            // A stream of quantities sends the latest value: there is nothing to resume.
            let latest = method.name() == "WatchMusical";
            let resumes = has(&input, "resume_revision") || has(&input, "resume_token");
            assert!(resumes || latest, "{}", method.full_name());
        }
    }
}

#[test]
fn every_rpc_says_what_it_does() {
    let pool = pool();
    for method in methods(&pool) {
        let file = method.parent_service().parent_file();
        let path = method.path().to_vec();
        let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
        let comment = info
            .location
            .iter()
            .find(|location| location.path == path)
            .map(|l| l.leading_comments().trim().to_owned());
        let comment = comment.unwrap_or_default();
        assert!(
            comment.starts_with(method.name()),
            "{} has the comment {comment:?}",
            method.full_name()
        );
        let answers_always =
            rule(&method).access == Access::Public || !has(&method.input(), "name");
        assert!(
            answers_always || comment.contains("efuses"),
            "{} does not say when it refuses",
            method.full_name()
        );
    }
}

#[test]
fn every_reason_fits_error_info() {
    for reason in pool()
        .all_enums()
        .filter(|e| e.name() == "ErrorReason")
        .flat_map(|e| e.values().collect::<Vec<_>>())
    {
        let name = reason.name().trim_start_matches("ERROR_REASON_");
        let plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        assert!(plain && name.len() <= 63, "{}", reason.full_name());
    }
}

#[tokio::test]
async fn g14_health_and_reflection_answer_for_every_context() {
    let mesh = TestMesh::start(&every_context()).await;
    let contexts = contexts();
    assert!(contexts.len() >= 8, "{contexts:?}");
    for name in contexts.iter().map(String::as_str).chain([""]) {
        // HealthCheckRequest { service = 1 }, HealthCheckResponse { status = 1: SERVING = 1 }.
        let mut body = vec![0x0a, u8::try_from(name.len()).unwrap()];
        body.extend_from_slice(name.as_bytes());
        let answer =
            raw::call(mesh.stranger(), "grpc.health.v1.Health/Check", body, None).await.unwrap();
        assert_eq!(answer, [0x08, 0x01], "{name:?} serves");
    }
    for version in ["v1", "v1alpha"] {
        // ServerReflectionRequest { list_services = 7 }.
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer = raw::call(mesh.stranger(), &method, vec![0x3a, 0x00], None).await.unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        for service in
            pool().services().filter(|service| service.full_name().starts_with("turnstile."))
        {
            assert!(text.contains(service.full_name()), "{version} knows {}", service.full_name());
        }
    }
}

#[tokio::test]
async fn every_event_has_a_place_in_the_map_of_events() {
    let mesh = TestMesh::start(&every_context()).await;
    let admin = mesh.admin();
    let policies = eventually("every policy runs", || async {
        let mut operations = OperationsServiceClient::new(admin.connect());
        let answer =
            operations.list_policies(ListPoliciesRequest::default()).await.ok()?.into_inner();
        let views = answer.policies.iter().any(|policy| policy.name.starts_with("mypage/"));
        views.then_some(answer.policies)
    })
    .await;
    let map = map_of_events(&policies);
    let file = root().join("docs/events.md");
    #[expect(clippy::disallowed_methods, reason = "how the map is written anew")]
    if std::env::var("TURNSTILE_WRITE_DOCS").is_ok() {
        std::fs::write(&file, &map).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        kept, map,
        "docs/events.md is not what the code does: TURNSTILE_WRITE_DOCS=1 cargo test -p contract-tests every_event"
    );
}

/// Who tells what, and who reacts how.
fn map_of_events(policies: &[Policy]) -> String {
    let mut map = String::from(
        "# Events\n\nWho tells what, and what happens then. Made from the code and checked by its tests; to write it anew:\n\
         `TURNSTILE_WRITE_DOCS=1 cargo test -p contract-tests every_event`.\n",
    );
    let mut sources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in events() {
        sources.entry(context_of(&event).to_owned()).or_default().insert(event);
    }
    for policy in policies {
        for kind in &policy.types {
            assert!(
                sources[&policy.source].contains(kind),
                "{} waits for {kind}, which nobody tells",
                policy.name
            );
        }
    }
    for (source, events) in sources {
        map.push_str(&format!("\n## {source}\n\n| event | policy | then |\n| --- | --- | --- |\n"));
        for event in events {
            let short = event.rsplit('.').next().unwrap_or_default().to_owned();
            let mut told = false;
            for policy in policies.iter().filter(|policy| policy.types.contains(&event)) {
                let name = policy.name.split('@').next().unwrap_or_default();
                map.push_str(&format!("| {short} | `{name}` | {} |\n", policy.sentence));
                told = true;
            }
            check_readers(&event, policies);
            if !told {
                map.push_str(&format!("| {short} | | nobody reacts yet |\n"));
            }
        }
    }
    map
}

/// A contract names those that react, and nobody else (S-16); or everybody.
fn check_readers(event: &str, policies: &[Policy]) {
    let named: BTreeSet<_> =
        Contract::ours().unwrap().readers(event).iter().map(String::as_str).collect();
    let of_event = policies.iter().filter(|policy| policy.types.iter().any(|kind| kind == event));
    let readers = of_event.filter_map(|policy| policy.name.split('/').next());
    let readers: BTreeSet<_> = readers.filter(|reader| *reader != context_of(event)).collect();
    assert!(named.contains("*") || named == readers, "{event} names {named:?}, not {readers:?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The domain speaks the business's words, and needs no database and no wire to be tested.
#[test]
fn every_domain_is_pure() {
    let mut found = 0;
    let mut folders = vec![root().join("services")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_domain = path.ends_with("src/domain.rs")
                || path.parent().is_some_and(|p| p.ends_with("src/domain"));
            if !is_domain {
                continue;
            }
            found += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for word in ["diesel", "prost", "proto::", "tonic", "tokio", "async ", "::now()"] {
                let clean = code.replace("Id::new()", "");
                assert!(!clean.contains(word), "{} speaks of {word}", path.display());
            }
        }
    }
    assert!(found >= 5, "{found} domains");
}

/// The hooks of the tests are a feature of the kit, and nothing that the program is made of turns it on.
#[test]
fn s_38_the_program_has_no_test_hooks() {
    let has_hooks = |edges: &str| {
        let mut tree = Command::new(env!("CARGO"));
        tree.args(["tree", "--offline", "--package", "turnstile", "--prefix", "none", "--edges"]);
        let tree = tree.arg(edges).current_dir(root()).output().unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        String::from_utf8(tree.stdout).unwrap().contains("mesh feature \"chaos\"")
    };
    assert!(!has_hooks("normal,build,features"), "a release would have them");
    assert!(has_hooks("normal,build,dev,features"), "this test looks for the wrong thing");
}

/// The packages of the workspace, by the folders that its manifest names.
fn manifests() -> Vec<(String, String)> {
    let read = |folder: &str| {
        std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap_or_default()
    };
    let workspace = read("");
    let members = workspace.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let folders = members.split('"').skip(1).step_by(2);
    folders.map(|folder| (folder.to_owned(), read(folder))).collect()
}

#[test]
fn s_34_no_crate_is_unsafe_and_no_sum_overflows_in_silence() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    let release = workspace.split("[profile.release]").nth(1).unwrap();
    assert!(release.split("\n[").next().unwrap().contains("overflow-checks = true"));
    let manifests = manifests();
    assert!(manifests.len() >= 14, "{} crates", manifests.len());
    for (folder, manifest) in manifests {
        let lints = manifest.split("[lints").nth(1).unwrap_or_default();
        let lints = lints.split("\n[").next().unwrap_or_default();
        let strict =
            lints.contains("workspace = true") || lints.contains("unsafe_code = \"forbid\"");
        assert!(strict, "{folder} may be unsafe");
    }
}
