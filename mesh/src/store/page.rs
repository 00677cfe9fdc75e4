//! Texts that a client gives back as they were: sealed with the store's secret, good for one purpose only. Lists use
//! them for their pages (rule G-17).

use std::fmt::Display;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Store;
use crate::check::Check;
use crate::error::{Error, Result};

const SIGNATURE: usize = 16;
/// The most rows of a page, whatever is asked for.
const MOST: i32 = 1000;

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct Page {
    size: usize,
    after: Option<String>,
    store: Store,
    list: String,
}

impl Store {
    /// A text that nobody else can make, and that is good for this purpose alone. It can be read by anybody.
    pub fn seal(&self, purpose: &str, text: &str) -> String {
        let mut sealed = self.signature(purpose, text);
        sealed.extend_from_slice(text.as_bytes());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The text of a seal, if it was made here and for this purpose.
    pub fn unseal(&self, purpose: &str, sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (signature, text) = bytes.split_at_checked(SIGNATURE)?;
        let text = String::from_utf8(text.to_vec()).ok()?;
        (signature == self.signature(purpose, &text)).then_some(text)
    }

    fn signature(&self, purpose: &str, text: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.inner.secret);
        hmac::sign(&key, format!("{purpose}\n{text}").as_bytes()).as_ref()[..SIGNATURE].to_vec()
    }

    /// Reads `page_size` (0: `default`, too much is capped) and `page_token`. `list` says which list and whose, so
    /// that a token of another one is refused.
    pub fn page(
        &self,
        check: &mut Check,
        list: &str,
        size: i32,
        default: u16,
        token: &str,
    ) -> Page {
        if size < 0 {
            check.bad("page_size", "must not be negative");
        }
        let size = if size == 0 { i32::from(default) } else { size.clamp(1, MOST) };
        let size = usize::try_from(size).unwrap_or(1);
        let after = if token.is_empty() { None } else { self.unseal(list, token) };
        if after.is_none() && !token.is_empty() {
            check.bad("page_token", "is not the next_page_token of a page of this list");
        }
        Page { size, after, store: self.clone(), list: list.to_owned() }
    }
}

impl Page {
    /// The row that the page begins behind.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// For names that grow: the page has only names below this one. The first page has all of them.
    pub fn before(&self) -> &str {
        // Sorts behind every name.
        self.after().unwrap_or("~")
    }

    /// For rows by a number and a name, the highest first: the page has only rows below this place. The first page has
    /// all of them.
    pub fn below(&self) -> Result<(i64, &str)> {
        let Some(after) = self.after() else { return Ok((i64::MAX, "")) };
        after
            .split_once(' ')
            .and_then(|(number, name)| Some((number.parse().ok()?, name)))
            .ok_or_else(|| Error::internal("a page token of ours names no place"))
    }

    /// The place of such a row, for [`Page::cut`].
    pub fn place(number: i64, name: impl Display) -> String {
        format!("{number} {name}")
    }

    /// How many rows to load: one more than wanted, to see whether there is a next page.
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The rows of this page, and the token of the next. `name` is what [`Page::after`] compares with.
    pub fn cut<T>(&self, mut rows: Vec<T>, name: impl Fn(&T) -> String) -> (Vec<T>, String) {
        if rows.len() <= self.size {
            return (rows, String::new());
        }
        rows.truncate(self.size);
        let token =
            rows.last().map(|row| self.store.seal(&self.list, &name(row))).unwrap_or_default();
        (rows, token)
    }
}

#[cfg(test)]
mod tests {
    use crate::check::Check;
    use crate::error::Error;
    use crate::store::tests::{open, reopen};
    use crate::store::{Page, Store};

    #[tokio::test]
    async fn g17_a_page_token_is_good_for_its_list_alone() {
        let (folder, store) = open();
        let rows = || (1..=5).map(|n| format!("row{n}")).collect::<Vec<_>>();
        let read = |store: &Store, list: &str, token: &str| {
            let mut check = Check::new();
            let page = store.page(&mut check, list, 2, 50, token);
            check.finish().map(|()| page)
        };
        let first = read(&store, "mine", "").unwrap();
        assert_eq!((first.after(), first.limit()), (None, 3));
        let (page, token) = first.cut(rows()[..3].to_vec(), Clone::clone);
        assert_eq!(page, ["row1", "row2"]);
        assert_eq!(read(&store, "mine", &token).unwrap().after(), Some("row2"));
        let store = reopen(&folder, store).await;
        assert_eq!(
            read(&store, "mine", &token).unwrap().after(),
            Some("row2"),
            "also after a restart"
        );
        let (_other_folder, other_store) = open();
        let mut changed = token.clone().into_bytes();
        let last = changed.len() - 1;
        changed[last] = if changed[last] == b'A' { b'E' } else { b'A' };
        let forged = String::from_utf8(changed).unwrap();
        for (store, list, token) in
            [(&store, "theirs", &token), (&other_store, "mine", &token), (&store, "mine", &forged)]
        {
            assert!(matches!(read(store, list, token), Err(Error::Invalid(_))), "{list} {token}");
        }
        for nonsense in ["x", "row2", "~", "AAAA", "é"] {
            assert!(matches!(read(&store, "mine", nonsense), Err(Error::Invalid(_))), "{nonsense}");
        }
        let (page, token) =
            read(&store, "mine", &token).unwrap().cut(rows()[4..].to_vec(), Clone::clone);
        assert_eq!(
            (page.as_slice(), token.as_str()),
            (&["row5".to_owned()][..], ""),
            "the last page has no token"
        );
    }

    #[tokio::test]
    async fn g17_a_page_goes_on_below_the_place_of_a_row() {
        let (_folder, store) = open();
        let read = |token: &str| {
            let mut check = Check::new();
            let page = store.page(&mut check, "list", 1, 50, token);
            check.finish().map(|()| page).unwrap()
        };
        let first = read("");
        assert_eq!(first.below().unwrap(), (i64::MAX, ""));
        let (_, token) = first.cut(vec![7, 6], |number| Page::place(*number, "a name"));
        assert_eq!(read(&token).below().unwrap(), (7, "a name"));
        let (_, token) = first.cut(vec![7, 6], ToString::to_string);
        assert!(read(&token).below().is_err(), "the place of no such row");
    }

    #[tokio::test]
    async fn g17_sizes_of_pages_are_capped() {
        let (_folder, store) = open();
        for (asked, limit) in [(0, 51), (1, 2), (1000, 1001), (i32::MAX, 1001)] {
            let mut check = Check::new();
            assert_eq!(store.page(&mut check, "list", asked, 50, "").limit(), limit);
            assert!(check.finish().is_ok());
        }
        let mut check = Check::new();
        store.page(&mut check, "list", -1, 50, "");
        assert!(matches!(check.finish(), Err(Error::Invalid(_))));
    }
}
