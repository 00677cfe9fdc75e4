//! The keys that sign access tokens: one file each, named by its `kid`, the newest last by name.
//!
//! A new key is published some time before it signs ([`Settings::key_lead`]), so that everybody who checks tokens
//! knows it by then, however seldom they look; an old one stays until the last token that it signed has ended. No
//! session notices a rotation. Files are small and changes rare: this blocks.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh::auth::AccessClaims;
use mesh::{Error, Result};

use crate::settings::Settings;

/// What the clocks and the leeway of those who check tokens may add to a token's life.
const MARGIN: Duration = Duration::from_secs(60);
const HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const FOOT: &str = "-----END PRIVATE KEY-----";

/// Why there is no key to sign with. For the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the signing keys in {} cannot be read or written", .folder.display())]
    Io {
        folder: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not an Ed25519 key (PKCS#8, PEM)", .0.display())]
    NotAKey(PathBuf),
    #[error("{} is not named by a key id: 1 to 100 letters, digits and hyphens, then .pem", .0.display())]
    BadName(PathBuf),
    #[error("there is no signing key ({{kid}}.pem) in {}", .0.display())]
    NoKey(PathBuf),
    #[error("no key was made: the clock is behind the newest one, {0}")]
    ClockIsBehind(String),
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::internal(error)
    }
}

/// A key that signs, will sign, or did so lately.
struct Key {
    kid: String,
    /// When it came to be here.
    since: SystemTime,
    public: Vec<u8>,
    encoding: EncodingKey,
}

impl Key {
    fn of(kid: String, since: SystemTime, pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = pair.public_key().as_ref().to_vec();
        Some(Self { kid, since, public, encoding: EncodingKey::from_ed_der(pkcs8) })
    }

    fn read(file: &Path) -> Result<Self, KeyError> {
        let io = |cause| KeyError::Io { folder: file.to_owned(), cause };
        let kid = file.file_stem().and_then(|stem| stem.to_str()).filter(|kid| is_kid(kid));
        let kid = kid.ok_or_else(|| KeyError::BadName(file.to_owned()))?;
        let since = file.metadata().and_then(|metadata| metadata.modified()).map_err(io)?;
        let text = std::fs::read_to_string(file).map_err(io)?;
        let base64 = text.trim().strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(FOOT));
        let base64: Option<String> = base64.map(|body| body.split_whitespace().collect());
        let pkcs8 = base64.and_then(|body| STANDARD.decode(body).ok());
        pkcs8
            .and_then(|pkcs8| Self::of(kid.to_owned(), since, &pkcs8))
            .ok_or_else(|| KeyError::NotAKey(file.to_owned()))
    }

    fn jwk(&self) -> serde_json::Value {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
            "kid": self.kid, "x": URL_SAFE_NO_PAD.encode(&self.public),
        })
    }
}

fn is_kid(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The live keys.
pub(crate) struct Keys {
    folder: PathBuf,
    is_mounted: bool,
    lead: Duration,
    /// How long a key is needed after another one signs.
    overlap: Duration,
    /// By name, so by age. Never empty.
    live: RwLock<Vec<Arc<Key>>>,
    /// Held by who changes or reads the folder.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Keys {
    /// The keys in the mounted folder, or those in `data`, where the first one is made.
    pub(crate) fn open(data: &Path, settings: &Settings) -> Result<Self, KeyError> {
        let keys = Self {
            folder: settings.keys.clone().unwrap_or_else(|| data.join("identity-keys")),
            is_mounted: settings.keys.is_some(),
            lead: settings.key_lead,
            overlap: settings.access_token_life + MARGIN,
            live: RwLock::default(),
            changing: Mutex::default(),
        };
        if !keys.is_mounted {
            keys.io(make_private_folder(&keys.folder))?;
            if keys.read_folder()?.is_empty() {
                keys.write(&mesh::uuid().to_string())?;
            }
        }
        keys.read_again()?;
        Ok(keys)
    }

    /// A token that says this, signed.
    pub(crate) fn sign(&self, claims: &AccessClaims) -> Result<String> {
        let live = self.live();
        let key = signing(&live, self.lead, mesh::now())
            .ok_or_else(|| KeyError::NoKey(self.folder.clone()))?;
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(Error::internal)
    }

    /// The public keys, as a JWK set.
    pub(crate) fn jwks(&self) -> String {
        let keys: Vec<_> = self.live().iter().map(|key| key.jwk()).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }

    /// The `kid` of the next key. There is none where the keys are mounted: whoever mounts them changes them.
    pub(crate) fn next_kid(&self) -> Result<String> {
        if self.is_mounted {
            return Err(Error::Unimplemented("making a key (the keys are mounted)".to_owned()));
        }
        let kid = mesh::uuid().to_string();
        match self.live().last() {
            Some(newest) if newest.kid >= kid => {
                Err(KeyError::ClockIsBehind(newest.kid.clone()).into())
            }
            _ => Ok(kid),
        }
    }

    /// Makes the key with this `kid`, unless it is there or was replaced since.
    pub(crate) fn make(&self, kid: &str) -> Result<(), KeyError> {
        {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.read_folder()?.last().is_some_and(|newest| newest.kid.as_str() >= kid) {
                return Ok(());
            }
            self.write(kid)?;
        }
        self.read_again()
    }

    /// Takes up what was changed in the folder, and removes the keys that nobody needs any more.
    pub(crate) fn refresh(&self, now: SystemTime) -> Result<(), KeyError> {
        self.read_again()?;
        if self.is_mounted {
            return Ok(());
        }
        for key in outlived(&self.live(), self.lead, self.overlap, now) {
            self.io(std::fs::remove_file(self.file(&key.kid)))?;
            tracing::info!(key.id = key.kid, "an old signing key was removed");
        }
        self.read_again()
    }

    fn live(&self) -> Vec<Arc<Key>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_again(&self) -> Result<(), KeyError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.read_folder()?;
        if keys.is_empty() {
            return Err(KeyError::NoKey(self.folder.clone()));
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn read_folder(&self) -> Result<Vec<Arc<Key>>, KeyError> {
        let mut keys = Vec::new();
        for entry in self.io(std::fs::read_dir(&self.folder))? {
            let file = self.io(entry)?.path();
            if file.extension().is_some_and(|ending| ending == "pem") {
                keys.push(Arc::new(Key::read(&file)?));
            }
        }
        keys.sort_by(|a, b| a.kid.cmp(&b.kid));
        Ok(keys)
    }

    /// All of the file or none: it gets its name when it is whole.
    fn write(&self, kid: &str) -> Result<(), KeyError> {
        let failed = |_| io::Error::other("no random key");
        let pkcs8 = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).map_err(failed);
        let text = format!("{HEAD}\n{}\n{FOOT}\n", STANDARD.encode(self.io(pkcs8)?.as_ref()));
        let (part, whole) = (self.folder.join(format!("{kid}.part")), self.file(kid));
        self.io(write_private(&part, &text).and_then(|()| std::fs::rename(&part, &whole)))?;
        #[cfg(unix)]
        self.io(std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all()))?;
        tracing::info!(key.id = kid, "a signing key was made");
        Ok(())
    }

    fn file(&self, kid: &str) -> PathBuf {
        self.folder.join(format!("{kid}.pem"))
    }

    fn io<T>(&self, outcome: io::Result<T>) -> Result<T, KeyError> {
        outcome.map_err(|cause| KeyError::Io { folder: self.folder.clone(), cause })
    }
}

/// The last key that was published long enough; else the first, which somebody may know.
fn signing(keys: &[Arc<Key>], lead: Duration, now: SystemTime) -> Option<&Arc<Key>> {
    keys.iter().rfind(|key| key.since + lead <= now).or_else(|| keys.first())
}

/// The keys before one that has been signing for longer than any of their tokens lives.
fn outlived(keys: &[Arc<Key>], lead: Duration, overlap: Duration, now: SystemTime) -> &[Arc<Key>] {
    let successor = keys.iter().rposition(|key| key.since + lead + overlap < now);
    &keys[..successor.unwrap_or(0)]
}

/// A folder for this user alone.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    // One that somebody else has made, too.
    #[cfg(unix)]
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// A file for this user alone, on the disk when this returns.
fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_secs(60);
    const OVERLAP: Duration = Duration::from_secs(960);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn key(kid: &str, since: SystemTime) -> Arc<Key> {
        let pkcs8 = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        Arc::new(Key::of(kid.to_owned(), since, pkcs8.as_ref()).unwrap())
    }

    fn names(keys: &[Arc<Key>]) -> Vec<&str> {
        keys.iter().map(|key| key.kid.as_str()).collect()
    }

    fn open(data: &Path) -> Keys {
        Keys::open(data, &Settings::default()).unwrap()
    }

    #[test]
    fn a_new_key_signs_after_its_lead_only() {
        let keys = [key("a", at(0)), key("b", at(1000))];
        let signs = |now| signing(&keys, LEAD, now).unwrap().kid.as_str();
        assert_eq!([signs(at(999)), signs(at(1059)), signs(at(1060))], ["a", "a", "b"]);
    }

    #[test]
    fn a_lone_key_signs_at_once() {
        assert_eq!(signing(&[key("a", at(0))], LEAD, at(0)).unwrap().kid, "a");
    }

    #[test]
    fn an_old_key_stays_until_its_last_token_has_ended() {
        let keys = [key("a", at(0)), key("b", at(100)), key("c", at(1000))];
        let gone = |now| names(outlived(&keys, LEAD, OVERLAP, now));
        assert!(gone(at(1120)).is_empty());
        assert_eq!(gone(at(1121)), ["a"]);
        assert_eq!(gone(at(2020)), ["a"]);
        assert_eq!(gone(at(2021)), ["a", "b"]);
        assert_eq!(gone(at(1_000_000)), ["a", "b"]);
    }

    #[test]
    fn the_first_key_is_made_and_found_again() {
        let data = tempfile::tempdir().unwrap();
        let first = open(data.path()).jwks();
        assert_eq!(open(data.path()).jwks(), first);
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let data = tempfile::tempdir().unwrap();
        let keys = open(data.path());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys.folder), 0o700);
        assert_eq!(mode(&keys.file(&keys.live()[0].kid)), 0o600);
    }

    #[test]
    fn a_key_is_made_once_and_never_behind_a_newer_one() {
        let data = tempfile::tempdir().unwrap();
        let keys = open(data.path());
        let (second, third) = (keys.next_kid().unwrap(), keys.next_kid().unwrap());
        keys.make(&second).unwrap();
        let jwks = keys.jwks();
        keys.make(&second).unwrap();
        assert_eq!(keys.jwks(), jwks);
        keys.make(&third).unwrap();
        std::fs::remove_file(keys.file(&second)).unwrap();
        keys.make(&second).unwrap();
        assert_eq!(keys.live().len(), 3, "read when it was there");
        keys.refresh(mesh::now()).unwrap();
        assert_eq!(keys.live().len(), 2);
    }

    #[test]
    fn outlived_keys_are_removed_from_the_folder() {
        let data = tempfile::tempdir().unwrap();
        let keys = open(data.path());
        keys.make(&keys.next_kid().unwrap()).unwrap();
        keys.refresh(mesh::now()).unwrap();
        assert_eq!(keys.live().len(), 2);
        keys.refresh(mesh::now() + keys.lead + keys.overlap + LEAD).unwrap();
        assert_eq!(keys.live().len(), 1);
        assert_eq!(open(data.path()).jwks(), keys.jwks());
    }

    #[test]
    fn mounted_keys_are_read_and_left_alone() {
        let mounted = tempfile::tempdir().unwrap();
        let settings = Settings { keys: Some(mounted.path().to_owned()), ..Settings::default() };
        let open = || Keys::open(Path::new("/nowhere"), &settings);
        assert!(matches!(open(), Err(KeyError::NoKey(_))));
        // As `openssl genpkey -algorithm ed25519` writes it.
        let pem = format!(
            "{HEAD}\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n{FOOT}\n"
        );
        std::fs::write(mounted.path().join("2026-01.pem"), &pem).unwrap();
        let keys = open().unwrap();
        assert!(keys.jwks().contains("2026-01"));
        assert!(matches!(keys.next_kid(), Err(Error::Unimplemented(_))));

        std::fs::write(mounted.path().join("2026-02.pem"), &pem).unwrap();
        keys.refresh(mesh::now() + keys.lead + keys.overlap + LEAD).unwrap();
        assert_eq!(names(&keys.live()), ["2026-01", "2026-02"]);

        std::fs::write(mounted.path().join("2026-03.pem"), "rubbish").unwrap();
        assert!(matches!(keys.refresh(mesh::now()), Err(KeyError::NotAKey(_))));
        assert_eq!(keys.live().len(), 2, "what was good stays");
        std::fs::rename(mounted.path().join("2026-03.pem"), mounted.path().join("a b.pem"))
            .unwrap();
        assert!(matches!(keys.refresh(mesh::now()), Err(KeyError::BadName(_))));
    }
}
