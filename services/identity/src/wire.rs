//! Between the domain and the contract.

use std::collections::BTreeSet;

use mesh::{Check, Error};
use proto::identity::v1 as api;
use tonic::Code;

use crate::NAME;
use crate::domain::{Account, AccountCreated, Email, Language, Refusal, Role, RoleGranted};

impl From<Role> for api::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Customer => Self::Customer,
            Role::Admin => Self::Admin,
        }
    }
}

impl From<Account> for api::Account {
    fn from(account: Account) -> Self {
        let roles: BTreeSet<i32> =
            account.roles.into_iter().map(|role| api::Role::from(role).into()).collect();
        Self {
            name: account.id.to_string(),
            email: account.email.as_str().to_owned(),
            display_name: account.display_name,
            roles: roles.into_iter().collect(),
            create_time: Some(account.created.into()),
            language_code: account.language.code().to_owned(),
        }
    }
}

impl From<AccountCreated> for api::AccountCreated {
    fn from(event: AccountCreated) -> Self {
        Self { account: event.account.to_string() }
    }
}

impl From<RoleGranted> for api::RoleGranted {
    fn from(event: RoleGranted) -> Self {
        Self { account: event.account.to_string(), role: api::Role::from(event.role).into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (reason, code) = match refusal {
            Refusal::EmailTaken => (api::ErrorReason::EmailTaken, Code::AlreadyExists),
            Refusal::WrongCredentials => {
                (api::ErrorReason::WrongCredentials, Code::Unauthenticated)
            }
            Refusal::RefreshTokenInvalid => {
                (api::ErrorReason::RefreshTokenInvalid, Code::Unauthenticated)
            }
            Refusal::TooManyTries { .. } => {
                (api::ErrorReason::TooManyTries, Code::ResourceExhausted)
            }
        };
        let error = Self::refused(NAME, reason.as_str_name(), refusal).code(code);
        match refusal {
            Refusal::TooManyTries { wait } => error.retry_after(wait),
            _ => error,
        }
    }
}

/// The email of somebody who signs up.
pub(crate) fn email(check: &mut Check, field: &str, value: &str) -> Email {
    Email::parse(value).unwrap_or_else(|error| {
        check.bad(field, error);
        Email::default()
    })
}

/// The language of somebody who signs up; English where none is named.
pub(crate) fn language(check: &mut Check, field: &str, value: &str) -> Language {
    if value.is_empty() {
        return Language::default();
    }
    Language::of(value).unwrap_or_else(|| {
        check.bad(field, "must be en or ko");
        Language::default()
    })
}

/// The role to grant.
pub(crate) fn role(check: &mut Check, field: &str, value: api::Role) -> Role {
    match value {
        api::Role::Customer => Role::Customer,
        api::Role::Admin => Role::Admin,
        api::Role::Unspecified => {
            check.bad(field, "must be a role");
            Role::Customer
        }
    }
}
