//! "Whenever this, do that": what a context reacts to, as values.

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use prost::{Message, Name};
use proto::mesh::v1 as api;

use super::{Event, context_of};
use crate::error::Result;
use crate::store::Tx;

pub(super) type LocalHandler = Arc<dyn Fn(&mut Tx<'_>, &api::Event) -> Result<()> + Send + Sync>;
pub(super) type CallHandler =
    Arc<dyn Fn(&api::Event) -> BoxFuture<'static, Result<()>> + Send + Sync>;

#[derive(Clone)]
pub(super) enum Handler {
    /// Changes the context's own store, in the transaction that moves the cursor.
    Local(LocalHandler),
    /// Calls another context; then the cursor moves.
    Call(CallHandler),
}

/// Where a policy begins in a log that it has never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    First,
    Now,
}

/// A durable reaction to the events of one source, in the order of each subject, exactly once.
#[derive(Clone)]
pub struct Policy {
    /// The function's name: what its cursor is kept under.
    pub(super) name: &'static str,
    pub(super) sentence: &'static str,
    pub(super) source: String,
    pub(super) handlers: Vec<(String, Handler)>,
    pub(super) start: Start,
    pub(super) former_name: Option<&'static str>,
    /// How many subjects a calling policy has under way at once.
    pub(super) window: usize,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<_> = self.types().collect();
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("types", &types)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Its function's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// What it does, for people.
    pub fn sentence(&self) -> &str {
        self.sentence
    }

    /// The context whose log it reads.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Full protobuf names of the events it reacts to.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.handlers.iter().map(|(kind, _)| kind.as_str())
    }

    /// Whether it calls another context.
    pub fn calls(&self) -> bool {
        matches!(self.handlers.first(), Some((_, Handler::Call(_))))
    }

    /// The name its function had before: the cursor is taken over.
    #[must_use]
    pub fn formerly(mut self, name: &'static str) -> Self {
        self.former_name = Some(name);
        self
    }

    pub(super) fn handler(&self, kind: &str) -> Option<&Handler> {
        self.handlers.iter().find(|(of, _)| of == kind).map(|(_, handler)| handler)
    }
}

/// A policy that changes the context's own store, and does not say yet where it begins.
#[must_use = "a policy says where it begins: .from_start() or .from_now()"]
pub struct Whenever(Policy);

impl fmt::Debug for Whenever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whenever `M` happened, `react`: a named function, whose name is the policy's key. `sentence` is for people.
pub fn whenever<M, F>(sentence: &'static str, react: F) -> Whenever
where
    M: Message + Name + Default,
    F: Fn(&mut Tx<'_>, &Event<M>) -> Result<()> + Send + Sync + 'static,
{
    Whenever(policy::<M>(function_name::<F>(), sentence, local(react)))
}

impl Whenever {
    /// Whenever `M` of the same source happened, `react`. One policy, so that events of one subject stay in order
    /// whatever their type.
    pub fn or<M, F>(mut self, react: F) -> Self
    where
        M: Message + Name + Default,
        F: Fn(&mut Tx<'_>, &Event<M>) -> Result<()> + Send + Sync + 'static,
    {
        let kind = M::full_name();
        assert_eq!(context_of(&kind), self.0.source, "{}: one policy reads one log", self.0.name);
        self.0.handlers.push((kind, local(react)));
        self
    }

    /// Begins with the first event there is.
    pub fn from_start(self) -> Policy {
        self.0
    }

    /// Begins with what happens from now on.
    pub fn from_now(mut self) -> Policy {
        self.0.start = Start::Now;
        self.0
    }
}

/// A policy that calls another context, and does not say yet where it begins.
#[must_use = "a policy says where it begins: .from_start() or .from_now()"]
pub struct Calling(Policy);

impl fmt::Debug for Calling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whenever `M` happened, call another context: `react` gets `with` (clients) and must be repeatable, since a crash
/// between the call and the cursor repeats it.
pub fn calling<M, D, F, W>(sentence: &'static str, with: D, react: F) -> Calling
where
    M: Message + Name + Default,
    D: Clone + Send + Sync + 'static,
    F: Fn(D, Event<M>) -> W + Send + Sync + 'static,
    W: Future<Output = Result<()>> + Send + 'static,
{
    let handler: CallHandler = Arc::new(move |event| match Event::decode(event) {
        Ok(event) => Box::pin(react(with.clone(), event)),
        Err(error) => Box::pin(async move { Err(error) }),
    });
    Calling(policy::<M>(function_name::<F>(), sentence, Handler::Call(handler)))
}

impl Calling {
    /// How many subjects are under way at once; 64 unless said.
    pub fn window(mut self, subjects: usize) -> Self {
        self.0.window = subjects;
        self
    }

    /// Begins with the first event there is.
    pub fn from_start(self) -> Policy {
        self.0
    }

    /// Begins with what happens from now on.
    pub fn from_now(mut self) -> Policy {
        self.0.start = Start::Now;
        self.0
    }
}

fn local<M, F>(react: F) -> Handler
where
    M: Message + Name + Default,
    F: Fn(&mut Tx<'_>, &Event<M>) -> Result<()> + Send + Sync + 'static,
{
    Handler::Local(Arc::new(move |tx, event| react(tx, &Event::decode(event)?)))
}

fn policy<M: Message + Name>(
    name: &'static str,
    sentence: &'static str,
    handler: Handler,
) -> Policy {
    let kind = M::full_name();
    Policy {
        name,
        sentence,
        source: context_of(&kind).to_owned(),
        handlers: vec![(kind, handler)],
        start: Start::First,
        former_name: None,
        window: 64,
    }
}

/// The name of a function, without its path.
fn function_name<F>() -> &'static str {
    let name = type_name::<F>().rsplit("::").next().unwrap_or_default();
    assert!(
        !name.contains(['{', '>']),
        "a policy is a named function, not a generic one: its name is its key"
    );
    name
}

#[cfg(test)]
mod tests {
    use proto::identity::v1::AccountCreated;

    use super::*;

    fn whenever_account_created(_: &mut Tx<'_>, _: &Event<AccountCreated>) -> Result<()> {
        Ok(())
    }

    #[test]
    fn g20_a_policys_key_is_its_functions_name() {
        let policy = whenever("greet", whenever_account_created).from_now().formerly("greets");
        assert_eq!((policy.name(), policy.source()), ("whenever_account_created", "identity"));
        assert_eq!(policy.start, Start::Now);
        assert_eq!(policy.former_name, Some("greets"));
    }

    #[test]
    #[should_panic(expected = "named function")]
    fn g20_a_closure_has_no_name_and_cannot_be_a_policy() {
        let _ = whenever("greet", |_: &mut Tx<'_>, _: &Event<AccountCreated>| Ok(()));
    }
}
