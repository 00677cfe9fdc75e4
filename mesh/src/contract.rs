//! The rules that the contracts carry, read from the descriptors: who may call what, what may be retried, how long it
//! may take.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use proto::mesh::v1::Access;

use crate::error::{Error, Result};

/// How long a call may take where the contract says nothing else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// What the contract says of one method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The context that serves it: `homemovie.app`.
    pub context: String,
    /// As in the path of a call: `turnstile.homemovie.app.v1.MovieApplicationService/PickMovie`.
    pub method: String,
    /// Who may call.
    pub access: Access,
    /// For [`Access::Service`]: the contexts that may.
    pub callers: Vec<String>,
    /// The most time a call may take; streams have no limit.
    pub deadline: Option<Duration>,
    /// Whether a call changes nothing.
    pub reads: bool,
    /// Whether a call may be sent again.
    pub repeatable: bool,
    /// Whether the answer is a stream.
    pub streams: bool,
    /// Its place among all rules: 0, 1, 2 ...
    pub(crate) number: usize,
}

impl Rule {
    /// Whether the context `caller` may call it as itself.
    pub(crate) fn lets_in(&self, caller: &str) -> bool {
        self.callers.iter().any(|name| name == "*" || name == caller)
    }
}

/// The rules of every method of ours, by path: `/turnstile.payment.v1.PaymentService/Pay`; and who may read each message
/// as an event, by its full name.
#[derive(Debug)]
pub struct Contract {
    rules: HashMap<String, Arc<Rule>>,
    readers: BTreeMap<String, Vec<String>>,
}

impl Contract {
    /// The rules of this build's contracts.
    pub fn ours() -> Result<&'static Self> {
        static OURS: OnceLock<Result<Contract, String>> = OnceLock::new();
        OURS.get_or_init(|| Self::read(proto::DESCRIPTORS).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|error| Error::internal(error.clone()))
    }

    /// Reads the rules of an encoded `FileDescriptorSet`. Everything that is missing is reported at once.
    pub fn read(descriptors: &[u8]) -> Result<Self, BrokenContract> {
        let broken = |what: String| BrokenContract { faults: vec![what] };
        let pool =
            DescriptorPool::decode(descriptors).map_err(|error| broken(error.to_string()))?;
        let mut rules = HashMap::new();
        let mut faults = Vec::new();
        let messages =
            pool.all_messages().filter(|message| message.full_name().starts_with("turnstile."));
        let readers = messages.map(|message| {
            let readers = names(&pool, &message.options(), "readers");
            (message.full_name().to_owned(), readers)
        });
        let readers = readers.collect();
        for service in
            pool.services().filter(|service| service.full_name().starts_with("turnstile."))
        {
            for method in service.methods() {
                match rule_of(&pool, &method) {
                    Ok(rule) => {
                        let rule = Rule { number: rules.len(), ..rule };
                        rules.insert(format!("/{}", rule.method), Arc::new(rule));
                    }
                    Err(fault) => faults.push(format!("{}: {fault}", method.full_name())),
                }
            }
        }
        if faults.is_empty() { Ok(Self { rules, readers }) } else { Err(BrokenContract { faults }) }
    }

    /// The rule of a method, by the path of a call.
    pub fn rule(&self, path: &str) -> Option<&Arc<Rule>> {
        self.rules.get(path)
    }

    /// The contexts that may read an event of this type, beside its own; `*` is each of them.
    pub fn readers(&self, kind: &str) -> &[String] {
        self.readers.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Which types of events of `source` a context is told of, where it asks for these, or for none in particular. None
    /// in the answer: all there are. A type that nobody knows here may be asked for: a later release may tell it.
    pub(crate) fn readable(
        &self,
        reader: &str,
        source: &str,
        asked: Vec<String>,
    ) -> Result<Vec<String>> {
        if reader == source {
            return Ok(asked);
        }
        let may = |kind: &str| self.readers(kind).iter().any(|name| name == "*" || name == reader);
        let forbidden = asked.iter().find(|kind| self.readers.contains_key(*kind) && !may(kind));
        if let Some(kind) = forbidden {
            return Err(Error::Forbidden(format!("reading {kind}")));
        }
        if !asked.is_empty() {
            return Ok(asked);
        }
        let of_source = self.readers.keys().filter(|kind| context_of(kind) == source);
        let readable: Vec<_> = of_source.filter(|kind| may(kind)).cloned().collect();
        match readable.is_empty() {
            true => Err(Error::Forbidden(format!("reading the log of {source}"))),
            false => Ok(readable),
        }
    }

    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.values()
    }
}

/// A contract that cannot be served as it stands.
#[derive(Debug, thiserror::Error)]
#[error("the contract is not complete: {}", .faults.join("; "))]
pub struct BrokenContract {
    faults: Vec<String>,
}

/// The context that a full protobuf name belongs to: `turnstile.homemovie.app.v1.MoviePicked` is of `homemovie.app`.
pub fn context_of(full_name: &str) -> &str {
    let package = full_name.rsplit_once('.').map_or("", |(package, _)| package);
    let package = package.strip_prefix("turnstile.").unwrap_or(package);
    match package.rsplit_once(".v") {
        Some((context, version)) if version.bytes().all(|b| b.is_ascii_digit()) => context,
        _ => package,
    }
}

fn rule_of(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Rule, &'static str> {
    let options = method.options();
    let access =
        option(pool, &options, "access").and_then(|value| value.as_enum_number()).unwrap_or(0);
    let access = Access::try_from(access).unwrap_or(Access::Unspecified);
    let callers = names(pool, &options, "callers");
    match access {
        Access::Unspecified => {
            return Err("says not who may call it: option (turnstile.mesh.v1.access)");
        }
        Access::Service if callers.is_empty() => {
            return Err("is for services, but names none: option (turnstile.mesh.v1.callers)");
        }
        _ if access != Access::Service && !callers.is_empty() => {
            return Err("names callers, but is not for services");
        }
        _ => {}
    }
    let deadline =
        option(pool, &options, "deadline").and_then(|value| value.as_message().map(duration_of));
    let level =
        options.get_field_by_name("idempotency_level").and_then(|level| level.as_enum_number());
    let streams = method.is_server_streaming() || method.is_client_streaming();
    Ok(Rule {
        context: context_of(method.parent_service().full_name()).to_owned(),
        method: format!("{}/{}", method.parent_service().full_name(), method.name()),
        access,
        callers,
        deadline: if streams { deadline } else { deadline.or(Some(DEADLINE)) },
        // NO_SIDE_EFFECTS; and IDEMPOTENT.
        reads: level == Some(1),
        repeatable: matches!(level, Some(1 | 2)),
        streams,
        number: 0,
    })
}

fn option(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = pool.get_extension_by_name(&format!("turnstile.mesh.v1.{name}"))?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

/// The contexts that an option names.
fn names(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Vec<String> {
    let value = option(pool, options, name);
    let names = value.and_then(|value| value.as_list().map(<[Value]>::to_vec)).unwrap_or_default();
    names.iter().filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect()
}

fn duration_of(message: &DynamicMessage) -> Duration {
    let field = |name| message.get_field_by_name(name);
    let seconds = field("seconds").and_then(|value| value.as_i64()).unwrap_or(0);
    let nanos = field("nanos").and_then(|value| value.as_i32()).unwrap_or(0);
    Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_stand_in_the_contract() {
        let contract = Contract::ours().unwrap();
        let pay = contract.rule("/turnstile.payment.v1.PaymentService/Pay").unwrap();
        assert_eq!(
            (pay.context.as_str(), pay.access, pay.repeatable),
            ("payment", Access::Service, true)
        );
        assert!(pay.lets_in("homemovie.app") && !pay.lets_in("homemovie.movie"));
        assert_eq!(pay.deadline, Some(DEADLINE));
        let sign_up = contract.rule("/turnstile.identity.v1.IdentityService/SignUp").unwrap();
        assert_eq!((sign_up.repeatable, sign_up.deadline), (false, Some(Duration::from_secs(5))));
        let subscribe = contract.rule("/turnstile.mesh.v1.EventService/Subscribe").unwrap();
        assert!(subscribe.streams && subscribe.deadline.is_none() && subscribe.lets_in("mypage"));
        assert!(subscribe.reads && !pay.reads && !sign_up.reads);
    }

    #[test]
    fn s_16_an_event_is_read_by_whom_its_contract_names() {
        let contract = Contract::ours().unwrap();
        let read = |reader: &str, source: &str, asked: &[&str]| {
            let asked = asked.iter().map(ToString::to_string).collect();
            contract.readable(reader, source, asked).ok()
        };
        let (approved, declined) =
            ("turnstile.payment.v1.PaymentApproved", "turnstile.payment.v1.PaymentDeclined");
        let desk = "outerpark.reservation";
        assert_eq!(read(desk, "payment", &[approved]).unwrap(), [approved]);
        assert_eq!(read(desk, "payment", &[approved, declined]), None);
        assert_eq!(read("notice", "payment", &[]), None);
        assert!(!read(desk, "payment", &[]).unwrap().contains(&declined.to_owned()));
        assert!(read("payment", "payment", &[]).unwrap().is_empty(), "its own, all of it");
        assert_eq!(read("payment", "payment", &[declined]).unwrap(), [declined]);
        let unknown = "turnstile.payment.v1.PaymentForgotten";
        assert_eq!(read(desk, "payment", &[unknown]).unwrap(), [unknown]);
        // What is no event is nobody's.
        assert_eq!(read("mypage", "payment", &["turnstile.payment.v1.PayRequest"]), None);
    }

    #[test]
    fn g16_a_method_without_access_does_not_start() {
        let source = "syntax = \"proto3\"; package turnstile.shop.v1; message M {} \
                      service ShopService { rpc Buy(M) returns (M); rpc Sell(M) returns (M); }";
        let error = Contract::read(&compile(source)).unwrap_err().to_string();
        assert!(error.contains("ShopService.Buy") && error.contains("ShopService.Sell"), "{error}");
    }

    fn compile(source: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shop.proto"), source).unwrap();
        let mut compiler = protox::Compiler::new([folder.path()]).unwrap();
        compiler.open_file("shop.proto").unwrap();
        compiler.encode_file_descriptor_set()
    }

    #[test]
    fn a_name_tells_its_context() {
        assert_eq!(context_of("turnstile.homemovie.app.v1.MoviePicked"), "homemovie.app");
        assert_eq!(context_of("turnstile.payment.v1.PaymentService"), "payment");
    }
}
