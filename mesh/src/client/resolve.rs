//! Where a callee is: fixed addresses, or names and files that are looked up again and again, since what they stand for
//! changes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How often names are looked up.
const EVERY: Duration = Duration::from_secs(5);
/// How soon after a failure; not sooner, however many there are.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// The same for files, which ask nobody.
const FILE_EVERY: Duration = Duration::from_millis(500);
const FILE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// An endpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{endpoint:?} is not an endpoint like {scheme}://payment:50051, or file:///run/endpoints/payment, or several of them"
)]
pub struct BadEndpoint {
    endpoint: String,
    scheme: Scheme,
}

/// How a process calls others: all of them in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// With certificates.
    Https,
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// Whether this says where a callee is, for who calls others in this way.
pub fn check_endpoint(endpoint: &str, scheme: Scheme) -> Result<(), BadEndpoint> {
    Places::read(endpoint, scheme).map(drop)
}

/// Where the servers of a callee are, as an endpoint says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    scheme: Scheme,
    pub(super) fixed: Vec<SocketAddr>,
    /// Host and port.
    pub(super) names: Vec<(String, u16)>,
    /// What is in them says it, and may change.
    pub(super) files: Vec<PathBuf>,
}

impl Places {
    /// Reads one URL, or several with blanks or `|` between them. A name may stand for many addresses.
    pub(super) fn read(endpoint: &str, scheme: Scheme) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint { endpoint: endpoint.to_owned(), scheme };
        let mut places = Self { scheme, fixed: Vec::new(), names: Vec::new(), files: Vec::new() };
        let urls = endpoint.split(|c: char| c.is_whitespace() || c == '|');
        for url in urls.filter(|url| !url.is_empty()) {
            if let Some(file) = url.strip_prefix("file://").filter(|file| file.starts_with('/')) {
                places.files.push(file.into());
                continue;
            }
            let uri: Uri = url.parse().map_err(|_| bad())?;
            let meant = uri.scheme_str() == Some(&*scheme.to_string());
            let host = uri.host().filter(|_| meant).ok_or_else(bad)?;
            let default = if scheme == Scheme::Https { 443 } else { 80 };
            let (host, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(default));
            match host.parse() {
                Ok(ip) => places.fixed.push(SocketAddr::new(ip, port)),
                Err(_) => places.names.push((host.to_owned(), port)),
            }
        }
        let nowhere = places.fixed.is_empty() && places.names.is_empty() && places.files.is_empty();
        if nowhere { Err(bad()) } else { Ok(places) }
    }

    /// Tells `take` what the names stand for, again and again, sooner when a call `failed`; and the fixed addresses. A
    /// name service that does not answer is no reason to forget what is known.
    pub(super) async fn follow<F>(
        self,
        lookup: impl Fn(String, u16) -> F,
        failed: &Notify,
        mut take: impl FnMut(&[SocketAddr]),
    ) where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let mut known = Vec::new();
        let (every, again) = match self.names.is_empty() {
            true => (FILE_EVERY, FILE_AFTER_FAILURE),
            false => (EVERY, AFTER_FAILURE),
        };
        loop {
            let (mut found, names, all_read) = self.now();
            let mut all_answered = all_read;
            for (host, port) in names {
                match lookup(host.clone(), port).await {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => {
                        all_answered = false;
                        tracing::debug!(%host, %error, "a name could not be looked up");
                    }
                }
            }
            found.sort_unstable();
            found.dedup();
            if all_answered || known.is_empty() {
                known = found;
            }
            take(&known);
            if self.names.is_empty() && self.files.is_empty() {
                return;
            }
            tokio::select! {
                () = sleep(every) => {}
                () = async { failed.notified().await; sleep(again).await } => {}
            }
        }
    }

    /// The addresses and names of the moment, and whether every file could be read. One that is empty says: nowhere.
    fn now(&self) -> (Vec<SocketAddr>, Vec<(String, u16)>, bool) {
        let (mut fixed, mut names, mut all_read) = (self.fixed.clone(), self.names.clone(), true);
        for file in &self.files {
            match std::fs::read_to_string(file).map(|text| (Self::read(&text, self.scheme), text)) {
                Ok((Ok(places), _)) => {
                    fixed.extend(places.fixed);
                    names.extend(places.names);
                }
                Ok((Err(_), text)) if text.trim().is_empty() => {}
                Ok((Err(error), _)) => {
                    all_read = false;
                    tracing::warn!(file = %file.display(), %error, "a file does not say where a context is");
                }
                Err(error) => {
                    all_read = false;
                    tracing::debug!(file = %file.display(), %error, "a file could not be read");
                }
            }
        }
        (fixed, names, all_read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 50051))
    }

    #[test]
    fn an_endpoint_is_one_or_several_urls_of_addresses_or_names() {
        let read = |endpoint| Places::read(endpoint, Scheme::Http).unwrap();
        let name = |host: &str, port| (host.to_owned(), port);
        assert_eq!(read("http://payment:50051").names, [name("payment", 50051)]);
        assert_eq!(read("http://payment").names, [name("payment", 80)]);
        let several = read("http://10.0.0.1:50051|http://10.0.0.2:50051 http://payment:1");
        assert_eq!(
            (&several.fixed[..], &several.names[..]),
            (&[at(1), at(2)][..], &[name("payment", 1)][..])
        );
        assert_eq!(read("http://[::1]:9").fixed, ["[::1]:9".parse().unwrap()]);
        assert_eq!(read("file:///run/payment").files, [PathBuf::from("/run/payment")]);
        let secure = Places::read("https://payment", Scheme::Https).unwrap();
        assert_eq!(secure.names, [name("payment", 443)]);
        let bad = ["", " | ", "payment:50051", "payment", "ftp://payment", "http://", "file://x"];
        for bad in bad.into_iter().chain(["https://payment"]) {
            assert!(Places::read(bad, Scheme::Http).is_err(), "{bad}");
        }
        let error = Places::read("http://payment", Scheme::Https).unwrap_err().to_string();
        assert!(error.contains("https://payment:50051"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_says_where_a_callee_is_and_may_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let places = Places::read(&format!("file://{}", file.path().display()), Scheme::Http);
        tokio::spawn(async move {
            let lookup = |_, _| async { Err(io::Error::other("no name is asked for")) };
            let take = |found: &[SocketAddr]| tell.send(found.to_vec()).unwrap();
            places.unwrap().follow(lookup, &Notify::new(), take).await;
        });
        assert_eq!(told.recv().await.unwrap(), [], "it is empty: nowhere yet");
        for (said, means) in [
            ("http://10.0.0.1:50051\n", &[at(1)][..]),
            ("http://10.0.0.1:50051\nhttp://10.0.0.2:50051\n", &[at(1), at(2)]),
            ("rubbish", &[at(1), at(2)]),
            ("", &[]),
        ] {
            std::fs::write(file.path(), said).unwrap();
            assert_eq!(told.recv().await.unwrap(), means, "{said:?}");
        }
    }

    /// Follows a name; what it stands for is what the script says, one look after the other.
    fn follow(
        script: Vec<io::Result<Vec<SocketAddr>>>,
        failed: Arc<Notify>,
    ) -> mpsc::UnboundedReceiver<Vec<SocketAddr>> {
        let (tell, told) = mpsc::unbounded_channel();
        let script = Arc::new(Mutex::new(script.into_iter()));
        let lookup = move |_, _| {
            let next = script.lock().unwrap().next();
            async move { next.unwrap_or_else(|| Err(io::Error::other("no answer"))) }
        };
        tokio::spawn(async move {
            let places = Places::read("http://payment:50051", Scheme::Http).unwrap();
            let take = |found: &[SocketAddr]| tell.send(found.to_vec()).unwrap();
            places.follow(lookup, &failed, take).await;
        });
        told
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_again_and_again() {
        let script = vec![Ok(vec![at(1)]), Ok(vec![at(2), at(1)]), Ok(vec![at(2)])];
        let mut told = follow(script, Arc::default());
        let begun = Instant::now();
        assert_eq!(told.recv().await.unwrap(), [at(1)]);
        assert_eq!(told.recv().await.unwrap(), [at(1), at(2)]);
        assert_eq!(told.recv().await.unwrap(), [at(2)]);
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert_eq!(told.recv().await.unwrap(), [at(2)], "no answer is no reason to forget it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_has_names_looked_up_soon_but_not_for_each_call() {
        let (failed, begun) = (Arc::new(Notify::new()), Instant::now());
        let mut told = follow(vec![Ok(vec![at(1)]), Ok(vec![at(2)])], failed.clone());
        assert_eq!(told.recv().await.unwrap(), [at(1)]);
        for _ in 0..100 {
            failed.notify_one();
        }
        assert_eq!(told.recv().await.unwrap(), [at(2)]);
        assert_eq!(begun.elapsed().as_millis(), 500);
    }
}
