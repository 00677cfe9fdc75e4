//! A small SMTP server that does with each mail what it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use notice::Mail;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server says to a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Accept,
    /// Such a line, instead of an OK.
    Refuse(&'static str),
    Hang,
    /// Takes the mail, and does not answer when it is told good-bye.
    HangAfterwards,
}

/// A mail that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Headers and body, as they came.
    pub(crate) data: String,
    /// What `AUTH PLAIN` said.
    pub(crate) credentials: String,
}

impl Taken {
    /// A header's value, unfolded.
    pub(crate) fn header(&self, name: &str) -> String {
        let unfolded = self.data.replace("\r\n ", " ");
        let line = unfolded.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {unfolded}")).to_owned()
    }
}

/// Answers a recipient, and how often it was asked for before.
type Answer = Arc<dyn Fn(&str, usize) -> Reply + Send + Sync>;

/// Cheap to clone.
#[derive(Clone, Default)]
struct Books {
    asked: Arc<Mutex<Vec<String>>>,
    taken: Arc<Mutex<Vec<Taken>>>,
}

pub(crate) struct SmtpServer {
    address: SocketAddr,
    books: Books,
}

impl SmtpServer {
    pub(crate) async fn start(
        answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let server =
            Self { address: listener.local_addr().expect("an address"), books: Books::default() };
        let (books, answer) = (server.books.clone(), Arc::new(answer) as Answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (books, answer) = (books.clone(), answer.clone());
                tokio::spawn(async move {
                    // Whoever hangs up has hung up.
                    let _ = serve(stream, &books, &answer).await;
                });
            }
        });
        server
    }

    pub(crate) fn mail(&self) -> Mail {
        Mail {
            url: format!("smtp://{}", self.address),
            password: None,
            from: "Turnstile <notices@turnstile.example>".to_owned(),
        }
    }

    /// How often a mail to this address was tried.
    pub(crate) fn asked(&self, address: &str) -> usize {
        self.books.asked.lock().expect("books").iter().filter(|asked| *asked == address).count()
    }

    /// The mails to this address that were taken.
    pub(crate) fn taken(&self, address: &str) -> Vec<Taken> {
        let taken = self.books.taken.lock().expect("books");
        taken.iter().filter(|mail| mail.to == address).cloned().collect()
    }
}

async fn serve(stream: TcpStream, books: &Books, answer: &Answer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.example ESMTP\r\n").await?;
    let mut mail = Taken {
        from: String::new(),
        to: String::new(),
        data: String::new(),
        credentials: String::new(),
    };
    let mut reply = Reply::Accept;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let (verb, rest) = line.split_once([' ', ':']).unwrap_or((line, ""));
        let path = || {
            let path = rest.split_once('<').and_then(|(_, path)| path.split_once('>'));
            path.expect("a path").0.to_owned()
        };
        let said = match verb {
            "EHLO" => "250-mail.example\r\n250-8BITMIME\r\n250 AUTH PLAIN".to_owned(),
            "AUTH" => {
                mail.credentials = rest.trim_start_matches("PLAIN ").to_owned();
                "235 welcome".to_owned()
            }
            "MAIL" => {
                mail.from = path();
                "250 ok".to_owned()
            }
            "RCPT" => {
                mail.to = path();
                let before = {
                    let mut asked = books.asked.lock().expect("books");
                    let before = asked.iter().filter(|asked| **asked == mail.to).count();
                    asked.push(mail.to.clone());
                    before
                };
                reply = answer(&mail.to, before);
                match &reply {
                    Reply::Accept | Reply::HangAfterwards => "250 ok".to_owned(),
                    // As servers do: with the address in it.
                    Reply::Refuse(line) => format!("{line} <{}>", mail.to),
                    Reply::Hang => return std::future::pending().await,
                }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                mail.data.clear();
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await? == 0 {
                        return Ok(());
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    mail.data.push_str(line.strip_prefix('.').unwrap_or(&line));
                }
                books.taken.lock().expect("books").push(mail.clone());
                "250 taken".to_owned()
            }
            "QUIT" if reply == Reply::HangAfterwards => return std::future::pending().await,
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 ok".to_owned(),
        };
        stream.write_all(format!("{said}\r\n").as_bytes()).await?;
    }
}
