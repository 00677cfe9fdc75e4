//! Passwords: argon2id, off the runtime, and never many at once.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use mesh::config::Secret;
use mesh::{Error, Result};
use rand::Rng as _;
use tokio::sync::Semaphore;

/// Each takes a core and 19 MiB for some 20 ms: more at once would be taken from everybody else.
const AT_ONCE: usize = 2;

/// What is verified for an email that nobody has, so that it takes as long as a wrong password. No password has it.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes and verifies passwords. Cheap to clone; clones share the limit.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    gate: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What to keep of a password: a PHC string.
    pub(crate) async fn hash(&self, password: Secret) -> Result<Secret> {
        self.run(move || {
            let salt = SaltString::encode_b64(&mesh::rng().random::<[u8; 16]>()).map_err(failed)?;
            let hash = Argon2::default()
                .hash_password(password.reveal().as_bytes(), &salt)
                .map_err(failed)?;
            Ok(Secret::new(hash.to_string()))
        })
        .await
    }

    /// Whether it is the password that was kept. Without one it is not, and that takes as long to find out.
    pub(crate) async fn verify(&self, password: Secret, kept: Option<Secret>) -> Result<bool> {
        self.run(move || {
            let hash = kept.as_ref().map_or(NOBODYS, Secret::reveal);
            let hash = PasswordHash::new(hash).map_err(failed)?;
            let same =
                Argon2::default().verify_password(password.reveal().as_bytes(), &hash).is_ok();
            Ok(same && kept.is_some())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.gate.clone().acquire_owned().await.map_err(Error::internal)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "hashing is no work for the store; the gate bounds it"
        )]
        let task = tokio::task::spawn_blocking(move || {
            // A caller that goes away does not make room: the work goes on.
            let _permit = permit;
            work()
        });
        task.await.map_err(Error::internal)?
    }
}

fn failed(error: argon2::password_hash::Error) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::new();
        let kept = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(kept.reveal().starts_with("$argon2id$"));
        assert!(passwords.verify(secret("correct horse"), Some(kept.clone())).await.unwrap());
        assert!(!passwords.verify(secret("wrong horse"), Some(kept)).await.unwrap());
        assert!(!passwords.verify(secret("correct horse"), None).await.unwrap());
    }

    #[tokio::test]
    async fn the_same_password_is_kept_differently_each_time() {
        let passwords = Passwords::new();
        let first = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(first != passwords.hash(secret("correct horse")).await.unwrap());
    }

    #[tokio::test]
    async fn id_1_nobodys_hash_takes_the_same_work_as_anybodys() {
        let kept = Passwords::new().hash(secret("correct horse")).await.unwrap();
        let (ours, nobodys) =
            (PasswordHash::new(kept.reveal()).unwrap(), PasswordHash::new(NOBODYS).unwrap());
        assert_eq!((ours.algorithm, ours.version), (nobodys.algorithm, nobodys.version));
        assert_eq!(ours.params, nobodys.params);
        assert_eq!(ours.hash.unwrap().len(), nobodys.hash.unwrap().len());
        assert_eq!(ours.salt.unwrap().len(), nobodys.salt.unwrap().len());
    }

    #[tokio::test]
    async fn not_more_than_two_run_at_once() {
        let passwords = Passwords::new();
        let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (passwords, begun, gate) = (passwords.clone(), begun.clone(), gate.clone());
                let work = move || {
                    begun.send(()).unwrap();
                    gate.lock().unwrap().recv().map_err(Error::internal)
                };
                tokio::spawn(async move { passwords.run(work).await })
            })
            .collect();
        seen.recv().await.unwrap();
        seen.recv().await.unwrap();
        assert_eq!(passwords.gate.available_permits(), 0);
        assert!(seen.try_recv().is_err());
        for _ in &tasks {
            release.send(()).unwrap();
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }
}
