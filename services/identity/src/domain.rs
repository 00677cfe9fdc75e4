//! Who may sign in, as what, and for how long: rules without a database, a clock or a cipher.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use mesh::{Accounts, Collection, Id};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Customer,
    Admin,
}

impl Role {
    const ALL: [Self; 2] = [Self::Customer, Self::Admin];

    /// The word for it in tokens and in the store.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Customer => "CUSTOMER",
            Self::Admin => "ADMIN",
        }
    }

    /// The role that this word stands for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// What an account is told things in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Language {
    #[default]
    English,
    Korean,
}

impl Language {
    const ALL: [Self; 2] = [Self::English, Self::Korean];

    /// Its code: ISO 639.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// The language that this code stands for.
    pub(crate) fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }
}

/// The most characters of an email.
pub(crate) const LONGEST_EMAIL: usize = 254;
/// The most characters of a display name.
pub(crate) const LONGEST_DISPLAY_NAME: usize = 100;
/// How many characters a password has.
pub(crate) const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// An email as it was given. Two that differ in the case of their letters only have the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Email(String);

/// A text that is no email.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an email of at most {LONGEST_EMAIL} characters")]
pub(crate) struct BadEmail;

impl Email {
    /// Whether somebody reads mail there, only mail can tell; this finds what certainly is no email.
    pub(crate) fn parse(text: &str) -> Result<Self, BadEmail> {
        let (local, host) = text.rsplit_once('@').ok_or(BadEmail)?;
        let foreign =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';');
        let good = !local.is_empty()
            && !local.contains('@')
            && !host.is_empty()
            && !host.starts_with('.')
            && !host.ends_with('.')
            && !text.contains(foreign)
            && text.chars().count() <= LONGEST_EMAIL;
        if good { Ok(Self(text.to_owned())) } else { Err(BadEmail) }
    }

    /// One that the store has: it was parsed when it came in.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// As it was given.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The one spelling that is compared.
    pub(crate) fn key(&self) -> String {
        Self::key_of(&self.0)
    }

    /// The key of a text that may be no email at all.
    pub(crate) fn key_of(text: &str) -> String {
        text.to_lowercase()
    }

    /// What stands before the @.
    fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }
}

/// Somebody who can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: Id<Accounts>,
    pub(crate) email: Email,
    pub(crate) display_name: String,
    pub(crate) language: Language,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) created: SystemTime,
}

/// Somebody signed up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AccountCreated {
    pub(crate) account: Id<Accounts>,
}

/// An account may do more than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RoleGranted {
    pub(crate) account: Id<Accounts>,
    pub(crate) role: Role,
}

impl Account {
    /// A new customer. Without a display name it is called what stands before the @ of its email.
    pub(crate) fn sign_up(
        email: Email,
        display_name: &str,
        language: Language,
        now: SystemTime,
    ) -> (Self, AccountCreated) {
        let display_name = if display_name.is_empty() { email.local_part() } else { display_name };
        let display_name = display_name.chars().take(LONGEST_DISPLAY_NAME).collect();
        let id = Id::new();
        let roles = BTreeSet::from([Role::Customer]);
        (
            Self { id, email, display_name, language, roles, created: now },
            AccountCreated { account: id },
        )
    }

    /// Gives the account a role. One that it has already changes nothing.
    pub(crate) fn grant(&mut self, role: Role) -> Option<RoleGranted> {
        self.roles.insert(role).then_some(RoleGranted { account: self.id, role })
    }
}

/// `signIns`: what the refresh tokens of one sign-in belong to. Never seen outside.
#[derive(Debug)]
pub(crate) enum SignIns {}

impl Collection for SignIns {
    const NAME: &'static str = "signIns";
}

/// What is kept of a refresh token: not the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefreshToken {
    pub(crate) hash: String,
    pub(crate) sign_in: Id<SignIns>,
    pub(crate) account: Id<Accounts>,
    pub(crate) expires: SystemTime,
    pub(crate) spent: Option<SystemTime>,
}

/// What comes of presenting a refresh token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// It is exchanged for this one.
    Exchanged(RefreshToken),
    /// It was exchanged too long ago for a lost answer: two have it, so nobody may go on with this sign-in.
    Replayed,
    /// Its time is over.
    Expired,
}

impl RefreshToken {
    /// The first of a new sign-in.
    pub(crate) fn first(account: Id<Accounts>, hash: String, expires: SystemTime) -> Self {
        Self { hash, sign_in: Id::new(), account, expires, spent: None }
    }

    /// Spends the token for a next one of this `hash`. A spent one is exchanged again within `grace` of the first
    /// time: the answer may have been lost on its way.
    pub(crate) fn present(
        &mut self,
        next: String,
        next_expires: SystemTime,
        now: SystemTime,
        grace: Duration,
    ) -> Presented {
        if self.expires <= now {
            return Presented::Expired;
        }
        let spent = *self.spent.get_or_insert(now);
        if now.duration_since(spent).unwrap_or_default() > grace {
            return Presented::Replayed;
        }
        Presented::Exchanged(Self {
            hash: next,
            sign_in: self.sign_in,
            account: self.account,
            expires: next_expires,
            spent: None,
        })
    }
}

/// Why identity says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("an account with this email exists")]
    EmailTaken,
    #[error("the email or the password is wrong")]
    WrongCredentials,
    #[error("the refresh token is not valid: sign in again")]
    RefreshTokenInvalid,
    #[error("too many tries, try again later")]
    TooManyTries { wait: Duration },
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);
    const LIFE: Duration = Duration::from_secs(1000);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn email(text: &str) -> Email {
        Email::parse(text).unwrap()
    }

    fn token() -> RefreshToken {
        RefreshToken::first(Id::new(), "first".to_owned(), now() + LIFE)
    }

    fn present(token: &mut RefreshToken, now: SystemTime) -> Presented {
        token.present("next".to_owned(), now + LIFE, now, GRACE)
    }

    #[test]
    fn an_email_is_one_whatever_the_case_of_its_letters() {
        assert_eq!(email("Jang@Example.COM").key(), email("jang@example.com").key());
        assert_eq!(email("Jang@Example.COM").as_str(), "Jang@Example.COM");
        assert!(Email::parse("admin@localhost").is_ok());
    }

    #[test]
    fn what_is_no_email_is_refused() {
        let long = format!("{}@example.com", "a".repeat(LONGEST_EMAIL));
        for bad in
            ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n", "a@.b", "a@b.", "<a@b>", &long]
        {
            assert_eq!(Email::parse(bad), Err(BadEmail), "{bad}");
        }
    }

    #[test]
    fn who_signs_up_is_a_customer() {
        let (account, event) =
            Account::sign_up(email("jang@example.com"), "", Language::Korean, now());
        assert_eq!(account.roles, BTreeSet::from([Role::Customer]));
        assert_eq!((account.display_name.as_str(), account.language), ("jang", Language::Korean));
        assert_eq!(event.account, account.id);
        let (account, _) =
            Account::sign_up(email("jang@example.com"), "Jang", Language::Korean, now());
        assert_eq!(account.display_name, "Jang");
    }

    #[test]
    fn a_long_local_part_is_cut_to_a_display_name() {
        let (account, _) = Account::sign_up(
            email(&format!("{}@b", "ä".repeat(200))),
            "",
            Language::English,
            now(),
        );
        assert_eq!(account.display_name.chars().count(), LONGEST_DISPLAY_NAME);
    }

    #[test]
    fn a_role_is_granted_once() {
        let (mut account, _) =
            Account::sign_up(email("jang@example.com"), "", Language::Korean, now());
        assert_eq!(
            account.grant(Role::Admin),
            Some(RoleGranted { account: account.id, role: Role::Admin })
        );
        assert_eq!(account.grant(Role::Admin), None);
        assert_eq!(account.grant(Role::Customer), None);
    }

    #[test]
    fn every_role_reads_back_from_its_word() {
        for role in Role::ALL {
            assert_eq!(Role::of(role.word()), Some(role));
        }
        assert_eq!(Role::of("customer"), None);
    }

    #[test]
    fn every_language_reads_back_from_its_code() {
        for language in Language::ALL {
            assert_eq!(Language::of(language.code()), Some(language));
        }
        assert_eq!(Language::of("EN"), None);
    }

    #[test]
    fn a_refresh_token_is_exchanged_for_the_next_of_its_sign_in() {
        let mut token = token();
        let Presented::Exchanged(next) = present(&mut token, now()) else { panic!("refused") };
        assert_eq!((next.sign_in, next.account), (token.sign_in, token.account));
        assert_eq!((next.hash.as_str(), next.spent), ("next", None));
        assert_eq!(token.spent, Some(now()));
    }

    #[test]
    fn a_spent_token_is_exchanged_again_within_the_grace_of_the_first_time() {
        let mut token = token();
        present(&mut token, now());
        assert!(matches!(present(&mut token, now() + GRACE), Presented::Exchanged(_)));
        assert_eq!(token.spent, Some(now()), "a later try does not prolong the grace");
    }

    #[test]
    fn a_spent_token_that_comes_later_is_a_replay() {
        let mut token = token();
        present(&mut token, now());
        assert_eq!(
            present(&mut token, now() + GRACE + Duration::from_millis(1)),
            Presented::Replayed
        );
    }

    #[test]
    fn an_expired_token_is_not_exchanged() {
        assert_eq!(present(&mut token(), now() + LIFE), Presented::Expired);
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_replay() {
        let mut token = token();
        present(&mut token, now());
        assert!(matches!(present(&mut token, now() - LIFE), Presented::Exchanged(_)));
    }
}
