//! A system whose contexts are processes that a test starts and ends one by one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::join_all;
use mesh_testing::Authority;
use tokio::process::Command;
use tonic::transport::Channel;

use super::proxy::Proxy;
use super::{Up, turnstile};

pub const CONTEXTS: [&str; 8] = [
    "identity",
    "payment",
    "notice",
    "mypage",
    "homemovie.app",
    "homemovie.movie",
    "outerpark.musical",
    "outerpark.reservation",
];

/// The process that customers call, as its certificate names it: it has no context.
pub const FRONT: &str = "turnstile";

pub const SECRET: &str = "a secret of the mesh that is long enough";

/// Contexts, each in a process. Where each is says a file, which the others look into.
pub struct System {
    data: PathBuf,
    places: tempfile::TempDir,
    /// What all of them find in their environment.
    settings: &'static [(&'static str, &'static str)],
    /// Where somebody finds a context who does not look into its file: by caller and callee.
    detours: HashMap<(String, String), String>,
    /// Of each context, its replicas: the oldest first.
    running: HashMap<String, Vec<Up>>,
    /// Who signs their certificates, where they have some.
    authority: Option<Authority>,
}

impl System {
    /// Contexts that share a secret.
    pub async fn start(data: &Path, contexts: &[&str]) -> Self {
        Self::start_with(data, contexts, &[]).await
    }

    /// With these settings in their environment.
    pub async fn start_with(
        data: &Path,
        contexts: &[&str],
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self::start_all(data, contexts, settings, None).await
    }

    /// Contexts that have certificates.
    pub async fn start_certified(data: &Path, contexts: &[&str], authority: Authority) -> Self {
        Self::start_all(data, contexts, &[], Some(authority)).await
    }

    async fn start_all(
        data: &Path,
        contexts: &[&str],
        settings: &'static [(&'static str, &'static str)],
        authority: Option<Authority>,
    ) -> Self {
        let places = tempfile::tempdir().expect("a folder");
        let (data, detours, running) = (data.to_owned(), HashMap::new(), HashMap::new());
        let mut system = Self { data, places, settings, detours, running, authority };
        let started = join_all(contexts.iter().map(|context| Up::launch(system.command(context))));
        for (context, up) in contexts.iter().zip(started.await) {
            system.is_there(context, up);
        }
        system
    }

    /// Starts a process that knows where the others are, and shows that it is this one.
    fn command(&self, process: &str) -> Command {
        let mut command = turnstile();
        match process {
            FRONT => command.arg("front"),
            context => command.args(["serve", context]),
        };
        command.arg("--data").arg(&self.data).args(["--listen", "127.0.0.1:0"]);
        command.envs(super::stores::setting_of(&self.data)).envs(self.settings.iter().copied());
        let endpoints = CONTEXTS.map(|context| {
            let detour = self.detours.get(&(process.to_owned(), context.to_owned())).cloned();
            let place = || format!("file://{}", self.places.path().join(context).display());
            format!("{context}={}", detour.unwrap_or_else(place))
        });
        command.env("TURNSTILE_ENDPOINTS", endpoints.join(",")).stderr(Stdio::piped());
        match &self.authority {
            Some(authority) => {
                let files = authority.issue(process);
                command
                    .env("TURNSTILE_TLS_CERT_FILE", files.certificate)
                    .env("TURNSTILE_TLS_KEY_FILE", files.key)
                    .env("TURNSTILE_TLS_CA_FILE", files.authority)
            }
            None => command.env("TURNSTILE_MESH_KEY", SECRET),
        };
        command
    }

    fn is_there(&mut self, process: &str, up: Up) {
        self.running.entry(process.to_owned()).or_default().push(up);
        self.tell_places(process);
    }

    /// Tells the others where a context is.
    fn tell_places(&self, context: &str) {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let replicas = self.running[context].iter();
        let urls: Vec<_> = replicas.map(|up| format!("{scheme}://{}", up.address)).collect();
        if urls.is_empty() {
            // Nobody knows better yet: calls fail until it is somewhere.
            return;
        }
        let (part, place) = (self.places.path().join("part"), self.places.path().join(context));
        std::fs::write(&part, urls.join("|")).expect("a file");
        std::fs::rename(part, place).expect("a file");
    }

    /// Puts a proxy between a caller that is not there yet and a context that is.
    pub async fn put_proxy_between(&mut self, caller: &str, callee: &str) -> Proxy {
        let proxy = Proxy::before(self.address(callee)).await;
        let way = (caller.to_owned(), callee.to_owned());
        self.detours.insert(way, format!("http://{}", proxy.address));
        proxy
    }

    /// What those find in their environment that start from now on.
    pub fn change_settings(&mut self, settings: &'static [(&'static str, &'static str)]) {
        self.settings = settings;
    }

    /// Starts a process, again perhaps, and somewhere else; or one more replica of it.
    pub async fn serve(&mut self, process: &str) {
        let up = Up::launch(self.command(process)).await;
        self.is_there(process, up);
    }

    /// Ends a process, or the oldest of its replicas; it must end well.
    pub async fn stop(&mut self, process: &str) {
        let up = self.running.get_mut(process).expect("it runs").remove(0);
        self.tell_places(process);
        let (status, said) = up.terminate().await;
        assert_eq!(status, Some(0), "{said}");
    }

    /// `kill -9`: the others are not told.
    pub async fn kill(&mut self, process: &str) {
        self.running.get_mut(process).expect("it runs").remove(0).kill().await;
    }

    /// Ends all of it; each process must end well.
    pub async fn stop_all(self) {
        let all = self.running.into_values().flatten();
        for (status, said) in join_all(all.map(Up::terminate)).await {
            assert_eq!(status, Some(0), "{said}");
        }
    }

    /// The processes of a context, the oldest first.
    pub fn replicas(&self, context: &str) -> &[Up] {
        &self.running[context]
    }

    /// A process that runs.
    pub fn process(&self, process: &str) -> &Up {
        &self.running[process][0]
    }

    pub fn address(&self, process: &str) -> &str {
        &self.process(process).address
    }

    /// As a customer: each process answers for its context.
    pub async fn connect(&self, process: &str) -> Channel {
        self.process(process).connect().await
    }
}
