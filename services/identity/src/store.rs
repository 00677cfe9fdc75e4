//! The tables of accounts and refresh tokens.

use std::time::SystemTime;

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use mesh::config::Secret;
use mesh::{Accounts, Conn, Error, Id, Result, micros, on_engine, time_of};

use crate::domain::{Account, Email, Language, RefreshToken, Refusal, Role, SignIns};

diesel::table! {
    account (name) {
        name -> Text,
        email -> Text,
        email_key -> Text,
        display_name -> Text,
        language_code -> Text,
        roles -> Text,
        password_hash -> Text,
        create_time -> BigInt,
    }
}

diesel::table! {
    refresh_token (hash) {
        hash -> Text,
        sign_in -> Text,
        account -> Text,
        expire_time -> BigInt,
        spend_time -> Nullable<BigInt>,
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = account, treat_none_as_default_value = false)]
struct AccountRow {
    name: String,
    email: String,
    email_key: String,
    display_name: String,
    language_code: String,
    roles: String,
    password_hash: String,
    create_time: i64,
}

fn words(account: &Account) -> String {
    account.roles.iter().map(|role| role.word()).collect::<Vec<_>>().join(" ")
}

impl TryFrom<AccountRow> for Account {
    type Error = Error;

    fn try_from(row: AccountRow) -> Result<Self> {
        let unknown =
            |what: &str, word: &str| Error::internal(format!("an unknown {what}: {word}"));
        let role = |word: &str| Role::of(word).ok_or_else(|| unknown("role", word));
        let language = Language::of(&row.language_code);
        Ok(Self {
            id: row.name.parse().map_err(Error::internal)?,
            email: Email::stored(row.email),
            display_name: row.display_name,
            language: language.ok_or_else(|| unknown("language", &row.language_code))?,
            roles: row.roles.split(' ').map(role).collect::<Result<_>>()?,
            created: time_of(row.create_time),
        })
    }
}

/// A new account. Refuses an email that another one has.
pub(crate) fn add_account(
    conn: &mut Conn,
    account: &Account,
    password_hash: &Secret,
) -> Result<()> {
    let row = AccountRow {
        name: account.id.to_string(),
        email: account.email.as_str().to_owned(),
        email_key: account.email.key(),
        display_name: account.display_name.clone(),
        language_code: account.language.code().to_owned(),
        roles: words(account),
        password_hash: password_hash.reveal().to_owned(),
        create_time: micros(account.created),
    };
    match diesel::insert_into(account::table).values(row).execute(conn) {
        Ok(_) => Ok(()),
        // The email is all of it that can be there already.
        Err(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
            Err(Refusal::EmailTaken.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps what an account may do.
pub(crate) fn save_roles(conn: &mut Conn, account: &Account) -> Result<()> {
    diesel::update(account::table.find(account.id.to_string()))
        .set(account::roles.eq(words(account)))
        .execute(conn)?;
    Ok(())
}

/// An account.
pub(crate) fn account(conn: &mut Conn, id: Id<Accounts>) -> Result<Account> {
    let row = on_engine!(conn, |engine| account::table
        .find(id.to_string())
        .select(AccountRow::as_select())
        .first(engine)
        .optional())?;
    row.ok_or_else(|| Error::NotFound(id.to_string()))?.try_into()
}

/// The account whose email has this key, and the hash of its password.
pub(crate) fn account_by_email(conn: &mut Conn, key: &str) -> Result<Option<(Account, Secret)>> {
    let row = on_engine!(conn, |engine| account::table
        .filter(account::email_key.eq(key))
        .select(AccountRow::as_select())
        .first(engine)
        .optional())?;
    row.map(|mut row| {
        let hash = Secret::new(std::mem::take(&mut row.password_hash));
        Ok((row.try_into()?, hash))
    })
    .transpose()
}

/// Keeps another hash of an account's password.
pub(crate) fn save_password(
    conn: &mut Conn,
    account: Id<Accounts>,
    password_hash: &Secret,
) -> Result<()> {
    diesel::update(account::table.find(account.to_string()))
        .set(account::password_hash.eq(password_hash.reveal()))
        .execute(conn)?;
    Ok(())
}

/// Whether nobody has an account.
pub(crate) fn is_empty(conn: &mut Conn) -> Result<bool> {
    let first: Option<String> =
        on_engine!(conn, |engine| account::table.select(account::name).first(engine).optional())?;
    Ok(first.is_none())
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = refresh_token, treat_none_as_default_value = false)]
struct TokenRow {
    hash: String,
    sign_in: String,
    account: String,
    expire_time: i64,
    spend_time: Option<i64>,
}

impl From<&RefreshToken> for TokenRow {
    fn from(token: &RefreshToken) -> Self {
        Self {
            hash: token.hash.clone(),
            sign_in: token.sign_in.to_string(),
            account: token.account.to_string(),
            expire_time: micros(token.expires),
            spend_time: token.spent.map(micros),
        }
    }
}

impl TryFrom<TokenRow> for RefreshToken {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self> {
        Ok(Self {
            hash: row.hash,
            sign_in: row.sign_in.parse().map_err(Error::internal)?,
            account: row.account.parse().map_err(Error::internal)?,
            expires: time_of(row.expire_time),
            spent: row.spend_time.map(time_of),
        })
    }
}

/// A new refresh token.
pub(crate) fn add_token(conn: &mut Conn, token: &RefreshToken) -> Result<()> {
    diesel::insert_into(refresh_token::table).values(TokenRow::from(token)).execute(conn)?;
    Ok(())
}

/// What is kept of the refresh token with this hash, unless it was revoked.
pub(crate) fn token(conn: &mut Conn, hash: &str) -> Result<Option<RefreshToken>> {
    let row = on_engine!(conn, |engine| refresh_token::table
        .find(hash)
        .select(TokenRow::as_select())
        .first(engine)
        .optional())?;
    row.map(RefreshToken::try_from).transpose()
}

/// Keeps when a token was spent.
pub(crate) fn save_spent(conn: &mut Conn, token: &RefreshToken) -> Result<()> {
    diesel::update(refresh_token::table.find(&token.hash))
        .set(refresh_token::spend_time.eq(token.spent.map(micros)))
        .execute(conn)?;
    Ok(())
}

/// Revokes every refresh token of a sign-in.
pub(crate) fn revoke(conn: &mut Conn, sign_in: Id<SignIns>) -> Result<()> {
    diesel::delete(refresh_token::table.filter(refresh_token::sign_in.eq(sign_in.to_string())))
        .execute(conn)?;
    Ok(())
}

/// Revokes every refresh token of an account.
pub(crate) fn revoke_all(conn: &mut Conn, account: Id<Accounts>) -> Result<()> {
    diesel::delete(refresh_token::table.filter(refresh_token::account.eq(account.to_string())))
        .execute(conn)?;
    Ok(())
}

/// Forgets some tokens that have expired: how many.
pub(crate) fn forget_expired(conn: &mut Conn, now: SystemTime) -> Result<usize> {
    let expired: Vec<String> = on_engine!(conn, |engine| refresh_token::table
        .filter(refresh_token::expire_time.lt(micros(now)))
        .select(refresh_token::hash)
        .limit(500)
        .load(engine))?;
    for hash in &expired {
        diesel::delete(refresh_token::table.find(hash)).execute(conn)?;
    }
    Ok(expired.len())
}
