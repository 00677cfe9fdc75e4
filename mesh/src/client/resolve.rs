//! Where a callee is: fixed addresses, or names that are looked up again and again, since what they stand for changes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How often names are looked up.
const EVERY: Duration = Duration::from_secs(5);
/// How soon after a failure; not sooner, however many there are.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// An endpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an endpoint like http://payment:50051, or several of them")]
pub(crate) struct BadEndpoint(String);

/// Where the servers of a callee are, as an endpoint says it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) fixed: Vec<SocketAddr>,
    /// Host and port.
    pub(super) names: Vec<(String, u16)>,
}

impl Places {
    /// Reads one URL, or several with blanks or `|` between them. A name may stand for many addresses.
    pub(super) fn read(endpoint: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(endpoint.to_owned());
        let mut places = Self::default();
        let urls = endpoint.split(|c: char| c.is_whitespace() || c == '|');
        for url in urls.filter(|url| !url.is_empty()) {
            let uri: Uri = url.parse().map_err(|_| bad())?;
            let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad)?;
            let (host, port) = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
            match host.parse() {
                Ok(ip) => places.fixed.push(SocketAddr::new(ip, port)),
                Err(_) => places.names.push((host.to_owned(), port)),
            }
        }
        if places == Self::default() { Err(bad()) } else { Ok(places) }
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
        loop {
            let mut found = self.fixed.clone();
            let mut all_answered = true;
            for (host, port) in &self.names {
                match lookup(host.clone(), *port).await {
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
            if self.names.is_empty() {
                return;
            }
            tokio::select! {
                () = sleep(EVERY) => {}
                () = async { failed.notified().await; sleep(AFTER_FAILURE).await } => {}
            }
        }
    }
}

/// Asks the name service.
pub(super) async fn dns(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
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
        let read = |endpoint| Places::read(endpoint).unwrap();
        let name = |host: &str, port| (host.to_owned(), port);
        assert_eq!(read("http://payment:50051").names, [name("payment", 50051)]);
        assert_eq!(read("http://payment").names, [name("payment", 80)]);
        let several = read("http://10.0.0.1:50051|http://10.0.0.2:50051 http://payment:1");
        assert_eq!(
            (&several.fixed[..], &several.names[..]),
            (&[at(1), at(2)][..], &[name("payment", 1)][..])
        );
        assert_eq!(read("http://[::1]:9").fixed, ["[::1]:9".parse().unwrap()]);
        for bad in ["", " | ", "payment:50051", "payment", "ftp://payment", "http://"] {
            assert!(Places::read(bad).is_err(), "{bad}");
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
            let places = Places::read("http://payment:50051").unwrap();
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
