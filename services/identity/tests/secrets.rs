//! No password and no token is kept or logged.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{EMAIL, Identity, PASSWORD, settings};
use mesh_testing::request_id;
use proto::identity::v1 as api;

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every file below.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

#[tokio::test]
async fn no_password_and_no_token_is_in_a_file_or_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let identity = Identity::start(settings()).await;
    let admin_password = identity.told.lock().unwrap()[0].0.clone();
    let admin = identity.admin().await;
    let first = identity.customer().await;
    identity.sign_in(EMAIL, "wrong horse canary").await.unwrap_err();
    identity.sign_in("nobody@example.com", "wrong horse canary").await.unwrap_err();
    let short = api::SignUpRequest {
        email: EMAIL.to_owned(),
        password: "canary7".to_owned(),
        ..Default::default()
    };
    identity.stranger().sign_up(short).await.unwrap_err();
    let second = identity.refresh(&first.refresh_token).await.unwrap();
    identity.my_account(&second.access_token).await.unwrap();
    let request = api::RotateSigningKeyRequest { request_id: request_id() };
    identity.with(&admin.access_token).rotate_signing_key(request).await.unwrap();

    let secrets = [
        ("the admin's password", admin_password.as_str()),
        ("the password", PASSWORD),
        ("a wrong password", "wrong horse canary"),
        ("a short password", "canary7"),
        ("the admin's access token", &admin.access_token),
        ("the admin's refresh token", &admin.refresh_token),
        ("an access token", &first.access_token),
        ("a spent refresh token", &first.refresh_token),
        ("another access token", &second.access_token),
        ("a refresh token", &second.refresh_token),
    ];
    // While the log of the store is still beside it, and after it was folded in.
    for stopped in [false, true] {
        if stopped {
            identity.mesh.mesh.stop("identity").await;
        }
        let mut found = Vec::new();
        files(identity.mesh.folder(), &mut found);
        assert!(found.iter().any(|(_, bytes)| contains(bytes, EMAIL)), "looked in the right place");
        assert_eq!(found.iter().any(|(name, _)| name.ends_with("-wal")), !stopped);
        for (name, bytes) in &found {
            for (what, secret) in secrets {
                assert!(!contains(bytes, secret), "{what} is in {name}");
            }
        }
    }
    let logged = log.0.lock().unwrap();
    assert!(contains(&logged, "a signing key was made"), "listened in the right place");
    for line in logged.split(|byte| *byte == b'\n') {
        for (what, secret) in secrets {
            assert!(
                !contains(line, secret),
                "{what} is in the log: {}",
                String::from_utf8_lossy(line)
            );
        }
    }
}
