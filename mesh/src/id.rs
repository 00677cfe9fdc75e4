//! Ids that say what they name: `movies/0193f3a2-...` in a contract, a log line, an event and a foreign key alike.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

#[cfg(feature = "chaos")]
use rand::Rng as _;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// A kind of resource. Its name is unique in the whole system.
pub trait Collection: 'static {
    /// The first part of a resource name: `movies`. At most 40 characters.
    const NAME: &'static str;
}

/// How long the name of a collection may be.
const LONGEST_NAME: usize = 40;

/// The resource name of one member of `C`: `movies/{uuid}`, a UUIDv7 made by the server.
pub struct Id<C> {
    uuid: Uuid,
    collection: PhantomData<fn() -> C>,
}

impl<C: Collection> Id<C> {
    /// A name that nobody has yet. Younger ones sort behind older ones.
    #[expect(
        clippy::new_without_default,
        reason = "a default id would be a different one each time"
    )]
    pub fn new() -> Self {
        Self::of(uuid())
    }

    /// The member with this UUID.
    pub fn of(uuid: Uuid) -> Self {
        const { assert!(C::NAME.len() <= LONGEST_NAME, "a name is written in one piece") };
        Self { uuid, collection: PhantomData }
    }
}

/// A text that is not the resource name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must have the format {0}/{{uuid}}")]
pub struct BadName(&'static str);

impl<C: Collection> FromStr for Id<C> {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        name.strip_prefix(C::NAME)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(canonical_uuid)
            .map(Self::of)
            .ok_or(BadName(C::NAME))
    }
}

/// A UUIDv7 that nobody has yet. Of one process, younger ones sort behind older ones.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn uuid() -> Uuid {
    #[cfg(feature = "chaos")]
    if let Some(now) = crate::world::now() {
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        return uuid::Builder::from_unix_timestamp_millis(millis, &crate::rng().random())
            .into_uuid();
    }
    Uuid::now_v7()
}

/// The `request_id` of a call that is made once for one order, so that it is the same however often it is sent: the
/// last part of the order's name.
pub fn request_id_of(order: &str) -> String {
    order.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Only one spelling of a UUID is a name, so that names can be compared as text.
pub(crate) fn canonical_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(uuid)
}

impl<C: Collection> fmt::Display for Id<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: a text that takes it grows once.
        let mut name = [0; LONGEST_NAME + 1 + Hyphenated::LENGTH];
        let (collection, uuid) = name.split_at_mut(C::NAME.len() + 1);
        collection[..C::NAME.len()].copy_from_slice(C::NAME.as_bytes());
        collection[C::NAME.len()] = b'/';
        self.uuid.as_hyphenated().encode_lower(uuid);
        let name = &name[..C::NAME.len() + 1 + Hyphenated::LENGTH];
        f.write_str(std::str::from_utf8(name).map_err(|_| fmt::Error)?)
    }
}

impl<C: Collection> fmt::Debug for Id<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<C> Clone for Id<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Id<C> {}

impl<C> PartialEq for Id<C> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}

impl<C> Eq for Id<C> {}

impl<C> Hash for Id<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

/// `accounts`: everybody who can sign in. The kit knows this one, because tokens name it.
#[derive(Debug)]
pub enum Accounts {}

impl Collection for Accounts {
    const NAME: &'static str = "accounts";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        let id = Id::<Accounts>::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("accounts/{}", request_id_of(&id.to_string())).parse(), Ok(id));
    }

    #[test]
    fn other_spellings_are_no_names() {
        let id = Id::<Accounts>::new().to_string();
        for bad in [
            id.replace("accounts", "movies"),
            id.to_uppercase(),
            id.replace('-', ""),
            id.clone() + " ",
        ] {
            assert_eq!(bad.parse::<Id<Accounts>>(), Err(BadName("accounts")), "{bad}");
        }
    }
}
