//! Mail over SMTP. The address is asked for when a mail is sent, and is kept nowhere.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use proto::identity::v1::Account;
use tokio::time::timeout;
use tonic::Code;
use url::{Host, Url};

use crate::directory::Directory;
use crate::domain::{Medium, Notice, Outcome};
use crate::sender::Courier;
use crate::settings::Mail;
use crate::texts;

/// How long one address of the mail server is tried.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the mail server may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_millis(200);

/// A mail server, and whom the mail is from.
#[derive(Debug)]
pub(crate) struct MailCourier {
    server: Server,
    from: Mailbox,
    directory: Directory,
}

impl MailCourier {
    pub(crate) fn new(mail: &Mail, directory: Directory) -> Result<Self, BadMail> {
        let (server, from) = open(mail)?;
        Ok(Self { server, from, directory })
    }

    async fn send(&self, notice: &Notice) -> Outcome {
        let account = match self.directory.account(notice.message.recipient).await {
            Ok(account) => account,
            Err(error) if error.is_passing() => {
                return Outcome::Postponed("identity did not say the address".to_owned());
            }
            Err(mesh::Error::Status(status)) if status.code() == Code::NotFound => {
                return Outcome::Refused("there is no such account".to_owned());
            }
            Err(_) => return Outcome::Failed("identity refused to say the address".to_owned()),
        };
        let mail = match letter(notice, &account, &self.from) {
            Ok(mail) => mail,
            Err(why) => return Outcome::Refused(why.to_owned()),
        };
        match self.server.send(&mail).await {
            Ok(()) => Outcome::Sent,
            Err(error) => outcome_of(&error),
        }
    }
}

impl Courier for MailCourier {
    fn medium(&self) -> Medium {
        Medium::Email
    }

    fn deliver<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Outcome> {
        self.send(notice).boxed()
    }
}

/// Where mail is handed in. There is a connection for each mail: one that is given up halfway must not carry another.
#[derive(Debug)]
pub(crate) struct Server {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    hello: ClientId,
}

impl Server {
    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let wrapper = match &self.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let address = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT), &self.hello, wrapper, None)
                .await?;
        match &self.tls {
            Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            Tls::Required(parameters) => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    async fn send(&self, mail: &Message) -> Result<(), SmtpError> {
        let mut connection = self.connect().await?;
        connection.send(mail.envelope(), &mail.formatted()).await?;
        // It has been taken, whatever the server says to a good-bye.
        let _ = timeout(GOOD_BYE, connection.quit()).await;
        Ok(())
    }
}

/// What is wrong with the settings of the mail, and which of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadMail {
    #[error("{0}")]
    Url(&'static str),
    #[error("must be an address like notices@example.com, or Notices <notices@example.com>")]
    From,
}

/// The mail server, and whom the mail is from.
pub(crate) fn open(mail: &Mail) -> Result<(Server, Mailbox), BadMail> {
    let from: Mailbox = mail.from.parse().map_err(|_| BadMail::From)?;
    let bad = BadMail::Url(
        "must be smtp://host, smtp://host?tls=required, smtp://host?tls=opportunistic or smtps://host",
    );
    let Ok(url) = Url::parse(&mail.url) else { return Err(bad) };
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err(bad),
    };
    let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value);
    let parameters =
        || TlsParameters::new(host.clone()).map_err(|_| BadMail::Url("must have a host to trust"));
    let (tls, port) = match (url.scheme(), tls.as_deref()) {
        ("smtp", None) => (Tls::None, 25),
        ("smtp", Some("opportunistic")) => (Tls::Opportunistic(parameters()?), 587),
        ("smtp", Some("required")) => (Tls::Required(parameters()?), 587),
        ("smtps", _) => (Tls::Wrapper(parameters()?), 465),
        _ => return Err(bad),
    };
    if url.password().is_some() {
        return Err(BadMail::Url("must not have the password in it: that is a setting of its own"));
    }
    let user = percent_decode_str(url.username()).decode_utf8().map_err(|_| bad)?.into_owned();
    let credentials = match &mail.password {
        Some(password) if !user.is_empty() => {
            Some(Credentials::new(user, password.reveal().to_owned()))
        }
        None if user.is_empty() => None,
        _ => return Err(BadMail::Url("must have a user where there is a password, and none else")),
    };
    let hello = match url.path().trim_matches('/') {
        "" => ClientId::Domain(from.email.domain().to_owned()),
        name => ClientId::Domain(name.to_owned()),
    };
    Ok((Server { host, port: url.port().unwrap_or(port), tls, credentials, hello }, from))
}

/// The mail. The same notice makes the same mail: by its Message-ID a second copy is known as one.
fn letter(notice: &Notice, to: &Account, from: &Mailbox) -> Result<Message, &'static str> {
    let address: Address = to.email.parse().map_err(|_| "the address is none")?;
    // The mail's builder panics over a name with control characters in it.
    let name = to.display_name.replace(char::is_control, " ");
    let name = Some(name).filter(|name| !name.trim().is_empty());
    let message = &notice.message;
    let id = format!("<{}@{}>", notice.id.to_string().replace('/', "."), from.email.domain());
    // RFC 3834: nobody's "I am away" answers it.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(name, address))
        .subject(texts::headline(message.kind, message.language))
        .date(notice.created)
        .message_id(Some(id))
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(format!("{}\r\n\r\n{}\r\n", message.text, message.order))
        .map_err(|_| "the mail could not be written")
}

/// In our own words: what a mail server answers may have the address in it. A server's no to this mail or to this
/// address (55x) is final; anything else may be about the server, and may pass.
fn outcome_of(error: &SmtpError) -> Outcome {
    let Some(code) = error.status().map(u16::from) else {
        let what = if error.is_timeout() {
            "the mail server does not answer"
        } else if error.is_tls() {
            "the mail server could not be trusted"
        } else if error.is_response() || error.is_client() {
            "the mail server could not be understood"
        } else {
            "the mail server could not be reached"
        };
        return Outcome::Failed(what.to_owned());
    };
    let what = format!("the mail server answered {code}");
    if (550..560).contains(&code) { Outcome::Refused(what) } else { Outcome::Failed(what) }
}

#[cfg(test)]
mod tests {

    use mesh::Id;
    use mesh::config::Secret;

    use super::*;
    use crate::domain::{Kind, Language};

    fn mail(url: &str, password: Option<&str>) -> Result<(), String> {
        let mail = Mail {
            url: url.to_owned(),
            password: password.map(Secret::new),
            from: "a@example.com".to_owned(),
        };
        open(&mail).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mail_server_is_named_by_a_url() {
        for good in [
            "smtp://[::1]:2525",
            "smtp://mail.example.com/turnstile.example.com",
            "smtp://127.0.0.1:2525",
            "smtp://mail.example.com?tls=required",
            "smtp://mail.example.com?tls=opportunistic",
            "smtps://mail.example.com",
        ] {
            assert_eq!(mail(good, None), Ok(()), "{good}");
        }
        assert_eq!(mail("smtps://jang@mail.example.com", Some("hunter2@/")), Ok(()));
        for bad in ["", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://a?tls=no"]
        {
            assert!(mail(bad, None).is_err(), "{bad}");
        }
        assert!(mail("smtps://mail.example.com", Some("hunter2")).is_err());
        assert!(mail("smtps://jang@mail.example.com", None).is_err());
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        let report = mail("smtps://jang:hunter2@mail.example.com", None).unwrap_err();
        assert!(!report.contains("hunter2"), "{report}");
    }

    #[test]
    fn the_same_notice_makes_the_same_mail_and_nothing_in_it_breaks_out_of_its_header() {
        let message = crate::domain::Message {
            recipient: Id::new(),
            order: "orders/1".to_owned(),
            kind: Kind::Confirmed,
            language: Language::Korean,
            text: "예약이 확정되었습니다.".to_owned(),
        };
        let notice = Notice::queued(message, Medium::Email, 1, mesh::now());
        let to = Account {
            email: "jang@example.com".to_owned(),
            display_name: "Jang\r\nBcc: everybody@example.com".to_owned(),
            ..Account::default()
        };
        let from = "Notices <notices@example.com>".parse().unwrap();
        let letters = [(); 2].map(|()| letter(&notice, &to, &from).unwrap().formatted());
        assert_eq!(letters[0], letters[1]);
        let letter = String::from_utf8_lossy(&letters[0]);
        assert!(!letter.contains("\r\nBcc"), "{letter}");
        let id = format!("Message-ID: <{}@example.com>", notice.id.to_string().replace('/', "."));
        assert!(letter.contains(&id), "{letter}");
        assert!(letter.contains("Auto-Submitted: auto-generated"), "{letter}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let message = crate::domain::Message {
            recipient: Id::new(),
            order: "orders/1".to_owned(),
            kind: Kind::Confirmed,
            language: Language::English,
            text: "x".to_owned(),
        };
        let notice = Notice::queued(message, Medium::Email, 1, mesh::now());
        let from = "notices@example.com".parse().unwrap();
        assert!(letter(&notice, &Account::default(), &from).is_err());
    }
}
