//! Signing up, in and out, and going on with a sign-in.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::time::{Duration, Instant, SystemTime};

use common::{EMAIL, Identity, PASSWORD, settings};
use identity::Settings;
use mesh_testing::{eventually, refusal};
use proto::identity::v1 as api;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::SubscribeRequest;
use proto::mesh::v1::event_service_client::EventServiceClient;
use tonic::Code;

fn reason(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test]
async fn who_signs_up_can_sign_in_and_is_known_by_the_token() {
    let identity = Identity::start(settings()).await;
    let account = identity.sign_up(EMAIL).await.unwrap();
    assert_eq!((account.email.as_str(), account.display_name.as_str()), (EMAIL, "jang"));
    assert_eq!(account.roles, [i32::from(api::Role::Customer)]);
    assert_eq!(account.language_code, "en");

    let signed_in = identity.sign_in(EMAIL, PASSWORD).await.unwrap();
    assert_eq!(signed_in.account.as_ref(), Some(&account));
    let tokens = signed_in.tokens.unwrap();
    assert_eq!(identity.my_account(&tokens.access_token).await.unwrap(), account);

    let left = |time: Option<_>| {
        SystemTime::try_from(time.unwrap()).unwrap().duration_since(mesh::now()).unwrap().as_secs()
    };
    assert!((14 * 60..=15 * 60).contains(&left(tokens.access_token_expire_time)));
    assert!((29 * 86400..=30 * 86400).contains(&left(tokens.refresh_token_expire_time)));
}

#[tokio::test]
async fn notice_alone_learns_where_and_how_to_tell_an_account() {
    let identity = Identity::start(settings()).await;
    let request = api::SignUpRequest {
        email: EMAIL.to_owned(),
        password: PASSWORD.to_owned(),
        language_code: "ko".to_owned(),
        ..Default::default()
    };
    let account = identity.stranger().sign_up(request).await.unwrap().into_inner().account.unwrap();
    let ask = |name: &str| api::GetAccountRequest { name: name.to_owned() };

    let mut notice = IdentityServiceClient::new(identity.mesh.service("notice", "identity"));
    let known = notice.get_account(ask(&account.name)).await.unwrap().into_inner().account.unwrap();
    assert_eq!((known.email.as_str(), known.language_code.as_str()), (EMAIL, "ko"));
    let nobody = mesh::Id::<mesh::Accounts>::new().to_string();
    assert_eq!(notice.get_account(ask(&nobody)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(notice.get_account(ask("jang")).await.unwrap_err().code(), Code::InvalidArgument);

    let mut payment = IdentityServiceClient::new(identity.mesh.service("payment", "identity"));
    assert_eq!(
        payment.get_account(ask(&account.name)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let from_outside = identity.stranger().get_account(ask(&account.name)).await;
    assert_eq!(from_outside.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_email_is_taken_whatever_the_case_of_its_letters() {
    let identity = Identity::start(settings()).await;
    let account = identity.sign_up("Jang@Example.com").await.unwrap();
    assert_eq!(account.email, "Jang@Example.com");
    assert_eq!(
        refusal(identity.sign_up("jANG@eXAMPLE.COM").await),
        reason(Code::AlreadyExists, "EMAIL_TAKEN")
    );
    assert_eq!(
        identity.sign_in("JANG@EXAMPLE.COM", PASSWORD).await.unwrap().account,
        Some(account)
    );
}

#[tokio::test]
async fn one_of_two_who_want_an_email_at_once_gets_it() {
    let identity = Identity::start(settings()).await;
    let (one, two) = tokio::join!(identity.sign_up(EMAIL), identity.sign_up(EMAIL));
    assert!(one.is_ok() != two.is_ok());
    assert_eq!(refusal(one.and(two)), reason(Code::AlreadyExists, "EMAIL_TAKEN"));
}

#[tokio::test]
async fn every_bad_field_of_a_sign_up_is_named() {
    use tonic_types::StatusExt as _;
    let identity = Identity::start(settings()).await;
    let request = api::SignUpRequest {
        email: "jang".to_owned(),
        password: "hunter2".to_owned(),
        display_name: "a".repeat(101),
        language_code: "EN".to_owned(),
    };
    let status = identity.stranger().sign_up(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["email", "password", "display_name", "language_code"]);
    assert!(!format!("{status:?}").contains("hunter2"));
}

#[tokio::test]
async fn id_1_a_wrong_password_and_an_unknown_email_are_the_same_refusal() {
    let identity = Identity::start(settings()).await;
    identity.sign_up(EMAIL).await.unwrap();
    let wrong = identity.sign_in(EMAIL, "wrong horse").await.unwrap_err();
    let unknown = identity.sign_in("nobody@example.com", PASSWORD).await.unwrap_err();
    let no_email = identity.sign_in("no email at all", PASSWORD).await.unwrap_err();
    for status in [&wrong, &unknown, &no_email] {
        assert_eq!(
            refusal(Err::<(), _>(status.clone())),
            reason(Code::Unauthenticated, "WRONG_CREDENTIALS")
        );
        assert_eq!(status.message(), wrong.message());
        assert_eq!(status.details(), wrong.details());
        let keys = |status: &tonic::Status| {
            status.metadata().keys().map(|key| format!("{key:?}")).collect::<Vec<_>>()
        };
        assert_eq!(keys(status), keys(&wrong));
    }
}

/// That the same work is done is shown beside the code that does it; this is about the whole call. Without the work
/// the one would be some thirty times as fast as the other.
#[tokio::test]
async fn id_1_a_wrong_password_and_an_unknown_email_take_as_long() {
    let identity = Identity::start(settings()).await;
    identity.sign_up(EMAIL).await.unwrap();
    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        for (email, times) in [(EMAIL, &mut wrong), ("nobody@example.com", &mut unknown)] {
            let begun = Instant::now();
            identity.sign_in(email, "wrong horse").await.unwrap_err();
            times.push(begun.elapsed());
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let ratio = median(wrong) / median(unknown);
    assert!((0.25..4.0).contains(&ratio), "{ratio}");
}

#[tokio::test]
async fn a_refresh_token_is_exchanged_for_the_next_pair() {
    let identity = Identity::start(settings()).await;
    let first = identity.customer().await;
    let second = identity.refresh(&first.refresh_token).await.unwrap();
    assert_ne!(first.refresh_token, second.refresh_token);
    assert_eq!(identity.my_account(&second.access_token).await.unwrap().email, EMAIL);
    assert!(identity.refresh(&second.refresh_token).await.is_ok());
}

#[tokio::test]
async fn a_spent_refresh_token_gets_a_pair_within_its_grace() {
    let identity = Identity::start(settings()).await;
    let first = identity.customer().await;
    // As two tabs do it, and again as if both answers were lost.
    let (one, two) = tokio::join!(
        identity.refresh(&first.refresh_token),
        identity.refresh(&first.refresh_token)
    );
    let three = identity.refresh(&first.refresh_token).await;
    let tokens = [one, two, three].map(|pair| pair.unwrap().refresh_token);
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2]);
    for token in tokens {
        assert!(identity.refresh(&token).await.is_ok());
    }
}

#[tokio::test]
async fn a_spent_refresh_token_that_comes_later_revokes_its_sign_in() {
    let identity = Identity::start(Settings { refresh_grace: Duration::ZERO, ..settings() }).await;
    let first = identity.customer().await;
    let other = identity.sign_in(EMAIL, PASSWORD).await.unwrap().tokens.unwrap();
    let second = identity.refresh(&first.refresh_token).await.unwrap();

    let invalid = reason(Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    assert_eq!(refusal(identity.refresh(&first.refresh_token).await), invalid);
    assert_eq!(refusal(identity.refresh(&second.refresh_token).await), invalid);
    assert!(identity.refresh(&other.refresh_token).await.is_ok(), "another sign-in goes on");
}

#[tokio::test]
async fn one_of_many_who_spend_a_token_at_once_gets_a_pair_without_a_grace() {
    let identity = Identity::start(Settings { refresh_grace: Duration::ZERO, ..settings() }).await;
    let first = identity.customer().await;
    let calls = (0..8).map(|_| identity.refresh(&first.refresh_token));
    let pairs: Vec<_> = futures::future::join_all(calls).await.into_iter().flatten().collect();
    assert_eq!(pairs.len(), 1);
    let pair = identity.refresh(&pairs[0].refresh_token).await;
    assert_eq!(refusal(pair), reason(Code::Unauthenticated, "REFRESH_TOKEN_INVALID"));
}

#[tokio::test]
async fn signing_out_revokes_the_sign_in_and_nothing_else() {
    let identity = Identity::start(settings()).await;
    let first = identity.customer().await;
    let other = identity.sign_in(EMAIL, PASSWORD).await.unwrap().tokens.unwrap();
    let second = identity.refresh(&first.refresh_token).await.unwrap();
    identity.sign_out(&first.refresh_token).await.unwrap();

    let invalid = reason(Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    for token in [&first.refresh_token, &second.refresh_token] {
        assert_eq!(refusal(identity.refresh(token).await), invalid);
    }
    identity.sign_out(&first.refresh_token).await.unwrap();
    identity.sign_out("never seen").await.unwrap();
    assert!(identity.refresh(&other.refresh_token).await.is_ok());
}

#[tokio::test]
async fn an_expired_refresh_token_is_refused_and_forgotten() {
    let settings = Settings {
        refresh_token_life: Duration::ZERO,
        housekeeping: Duration::from_millis(20),
        ..settings()
    };
    let identity = Identity::start(settings).await;
    let tokens = identity.customer().await;
    let invalid = reason(Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    assert_eq!(refusal(identity.refresh(&tokens.refresh_token).await), invalid);

    use diesel::prelude::*;
    diesel::table! { refresh_token (hash) { hash -> Text, } }
    let store = identity.mesh.store("identity");
    eventually("the token is forgotten", || async {
        let mut conn = store.connect().unwrap();
        let left: i64 = refresh_token::table.count().get_result(&mut conn).unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused() {
    let identity = Identity::start(settings()).await;
    let tokens = identity.customer().await;
    let invalid = reason(Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    for token in ["never seen", &tokens.access_token] {
        assert_eq!(refusal(identity.refresh(token).await), invalid);
    }
    assert_eq!(identity.refresh("").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn too_many_tries_for_an_account_are_refused_and_say_when_to_come_again() {
    let identity = Identity::start(Settings { tries_per_account: 3, ..settings() }).await;
    identity.sign_up(EMAIL).await.unwrap();
    for _ in 0..2 {
        let wrong = identity.sign_in(EMAIL, "wrong horse").await;
        assert_eq!(refusal(wrong), reason(Code::Unauthenticated, "WRONG_CREDENTIALS"));
    }
    // Whatever the spelling, and whatever the password.
    let status = identity.sign_in("JANG@example.com", PASSWORD).await.unwrap_err();
    let wait = mesh::retry_delay_of(&status).unwrap();
    assert!(Duration::ZERO < wait && wait <= Duration::from_secs(60), "{wait:?}");
    let too_many = reason(Code::ResourceExhausted, "TOO_MANY_TRIES");
    assert_eq!(refusal(Err::<(), _>(status)), too_many);
    assert_eq!(refusal(identity.sign_up(EMAIL).await), too_many);
    assert!(identity.sign_up("other@example.com").await.is_ok(), "another account is not affected");
}

#[tokio::test]
async fn an_account_that_does_not_exist_is_limited_like_one_that_does() {
    let identity = Identity::start(Settings { tries_per_account: 1, ..settings() }).await;
    let outcomes = [
        identity.sign_in("nobody@example.com", PASSWORD).await,
        identity.sign_in("nobody@example.com", PASSWORD).await,
    ];
    let reasons = outcomes.map(|outcome| refusal(outcome).1);
    assert_eq!(reasons, ["WRONG_CREDENTIALS", "TOO_MANY_TRIES"]);
}

#[tokio::test]
async fn too_many_tries_from_an_address_are_refused() {
    let settings = Settings { tries_per_address: 1, sign_ups_per_address: 2, ..settings() };
    let identity = Identity::start(settings).await;
    let too_many = reason(Code::ResourceExhausted, "TOO_MANY_TRIES");
    identity.sign_up("a@example.com").await.unwrap();
    identity.sign_up("b@example.com").await.unwrap();
    assert_eq!(refusal(identity.sign_up("c@example.com").await), too_many);
    identity.sign_in("a@example.com", PASSWORD).await.unwrap();
    assert_eq!(refusal(identity.sign_in("b@example.com", PASSWORD).await), too_many);
}

#[tokio::test]
async fn sign_ups_and_roles_are_published_without_an_email() {
    let identity = Identity::start(settings()).await;
    let account = identity.sign_up(EMAIL).await.unwrap();
    let mut log = EventServiceClient::new(identity.mesh.service("identity", "identity"));
    let request = SubscribeRequest {
        source: "identity".to_owned(),
        policy: "identity/test".to_owned(),
        ..Default::default()
    };
    let mut batches = log.subscribe(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(batches.message().await.unwrap().expect("a stream that goes on").events);
    }
    let types: Vec<_> = seen.iter().map(|event| event.r#type.rsplit('.').next().unwrap()).collect();
    assert_eq!(types, ["AccountCreated", "RoleGranted", "AccountCreated"]);
    assert_eq!(seen[2].subject, account.name);
    assert!(seen.iter().all(|event| !String::from_utf8_lossy(&event.data).contains('@')));
}
