//! The first admin, and what admins may do.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use common::{ADMIN, EMAIL, Identity, PASSWORD, settings};
use identity::Settings;
use mesh::config::Secret;
use mesh_testing::{refusal, request_id};
use proto::identity::v1 as api;
use tonic::Code;

fn grant(request_id: &str, name: &str, role: api::Role) -> api::GrantRoleRequest {
    api::GrantRoleRequest {
        request_id: request_id.to_owned(),
        name: name.to_owned(),
        role: role.into(),
    }
}

fn rotate(request_id: &str) -> api::RotateSigningKeyRequest {
    api::RotateSigningKeyRequest { request_id: request_id.to_owned() }
}

#[tokio::test]
async fn id_5_the_first_start_makes_one_admin() {
    let identity = Identity::start(settings()).await;
    let told = identity.told.lock().unwrap().clone();
    let [(password, given)] = &told[..] else { panic!("told {} times", told.len()) };
    assert!(password.len() >= 24 && !given);
    let signed_in = identity.sign_in(ADMIN, password).await.unwrap();
    let roles = [api::Role::Customer, api::Role::Admin].map(i32::from);
    assert_eq!(signed_in.account.unwrap().roles, roles);
}

#[tokio::test]
async fn id_5_the_second_start_makes_none() {
    let identity = Identity::start(settings()).await;
    let before = identity.admin().await;
    for _ in 0..2 {
        identity.mesh.mesh.stop("identity").await;
        identity.mesh.restart("identity").await;
    }
    assert_eq!(identity.told.lock().unwrap().len(), 1);
    identity.admin().await;
    assert!(identity.my_account(&before.access_token).await.is_ok(), "the keys are the same");
    assert!(identity.refresh(&before.refresh_token).await.is_ok());
}

#[tokio::test]
async fn id_5_a_start_on_a_store_with_accounts_makes_no_admin() {
    let identity = Identity::start(settings()).await;
    identity.sign_up(EMAIL).await.unwrap();
    identity.mesh.mesh.crash("identity").await;
    identity.mesh.restart("identity").await;
    assert_eq!(identity.told.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn id_5_a_given_password_is_the_admins() {
    let given = Some(Secret::new(PASSWORD));
    let identity = Identity::start(Settings { admin_password: given, ..settings() }).await;
    assert_eq!(*identity.told.lock().unwrap(), [(PASSWORD.to_owned(), true)]);
    assert!(identity.sign_in(ADMIN, PASSWORD).await.is_ok());
}

#[tokio::test]
async fn two_first_starts_make_two_passwords() {
    let (one, two) = (Identity::start(settings()).await, Identity::start(settings()).await);
    assert_ne!(*one.told.lock().unwrap(), *two.told.lock().unwrap());
}

#[tokio::test]
async fn an_admin_grants_a_role_which_the_next_token_carries() {
    let identity = Identity::start(settings()).await;
    let customer = identity.customer().await;
    let name = identity.my_account(&customer.access_token).await.unwrap().name;
    let mut admin = identity.with(&identity.admin().await.access_token);
    let answer =
        admin.grant_role(grant(&request_id(), &name, api::Role::Admin)).await.unwrap().into_inner();
    let roles = [api::Role::Customer, api::Role::Admin].map(i32::from);
    assert_eq!(answer.account.unwrap().roles, roles);

    let next = identity.refresh(&customer.refresh_token).await.unwrap();
    let mut promoted = identity.with(&next.access_token);
    assert!(promoted.rotate_signing_key(rotate(&request_id())).await.is_ok());
}

#[tokio::test]
async fn the_same_request_twice_is_carried_out_once() {
    let identity = Identity::start(settings()).await;
    let name = identity.sign_up(EMAIL).await.unwrap().name;
    let mut admin = identity.with(&identity.admin().await.access_token);
    let (id, admins) = (request_id(), api::Role::Admin);
    let first = admin.grant_role(grant(&id, &name, admins)).await.unwrap().into_inner();
    let again = admin.grant_role(grant(&id, &name, admins)).await.unwrap().into_inner();
    assert_eq!(first, again);
    let other = admin.grant_role(grant(&id, &name, api::Role::Customer)).await;
    assert_eq!(refusal(other), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));

    let id = request_id();
    let first = admin.rotate_signing_key(rotate(&id)).await.unwrap().into_inner();
    identity.mesh.mesh.crash("identity").await;
    identity.mesh.restart("identity").await;
    let again = admin.rotate_signing_key(rotate(&id)).await.unwrap().into_inner();
    assert_eq!(first, again);
    let keys = std::fs::read_dir(identity.mesh.folder().join("identity-keys")).unwrap().count();
    assert_eq!(keys, 2);
}

#[tokio::test]
async fn a_rotation_that_died_before_its_key_was_made_is_finished_by_its_repetition() {
    let identity = Identity::start(settings()).await;
    let mut admin = identity.with(&identity.admin().await.access_token);
    let id = request_id();
    let key = admin.rotate_signing_key(rotate(&id)).await.unwrap().into_inner().key_id;
    let file = identity.mesh.folder().join("identity-keys").join(format!("{key}.pem"));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(admin.rotate_signing_key(rotate(&id)).await.unwrap().into_inner().key_id, key);
    assert!(file.exists());
}

#[tokio::test]
async fn a_customer_grants_nothing_and_rotates_nothing() {
    let identity = Identity::start(settings()).await;
    let mut customer = identity.with(&identity.customer().await.access_token);
    let name = customer.get_my_account(api::GetMyAccountRequest {}).await.unwrap().into_inner();
    let name = name.account.unwrap().name;
    let granted = customer.grant_role(grant(&request_id(), &name, api::Role::Admin)).await;
    assert_eq!(granted.unwrap_err().code(), Code::PermissionDenied);
    let rotated = customer.rotate_signing_key(rotate(&request_id())).await;
    assert_eq!(rotated.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_grant_to_nobody_or_of_nothing_is_refused() {
    let identity = Identity::start(settings()).await;
    let mut admin = identity.with(&identity.admin().await.access_token);
    let nobody = mesh::Id::<mesh::Accounts>::new().to_string();
    let outcome = admin.grant_role(grant(&request_id(), &nobody, api::Role::Admin)).await;
    assert_eq!(outcome.unwrap_err().code(), Code::NotFound);
    for request in [
        grant(&request_id(), &nobody, api::Role::Unspecified),
        grant(&request_id(), "movies/1", api::Role::Admin),
        grant("", &nobody, api::Role::Admin),
        api::GrantRoleRequest { role: 7, ..grant(&request_id(), &nobody, api::Role::Admin) },
    ] {
        assert_eq!(admin.grant_role(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
