//! A small HTTP server that is posted to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mesh::config::Secret;
use notice::Webhook;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const SECRET: &str = "a secret of some length";

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Posted {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn order(&self) -> String {
        self.json()["order"].as_str().expect("an order").to_owned()
    }
}

/// Answers the request, and how many came before it, with a status; or never.
type Answer = Arc<dyn Fn(&Posted, usize) -> Option<u16> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl HttpServer {
    pub(crate) async fn start(
        answer: impl Fn(&Posted, usize) -> Option<u16> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = Self { address, posted: Arc::default() };
        let (posted, answer) = (server.posted.clone(), Arc::new(answer) as Answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (posted, answer) = (posted.clone(), answer.clone());
                tokio::spawn(async move {
                    // Whoever hangs up has hung up.
                    let _ = serve(stream, &posted, &answer).await;
                });
            }
        });
        server
    }

    pub(crate) fn webhook(&self) -> Webhook {
        Webhook {
            url: format!("http://{}/notices?from=turnstile", self.address),
            secret: Secret::new(SECRET),
        }
    }

    /// Every request that came.
    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("requests").clone()
    }

    /// Those about this order.
    pub(crate) fn about(&self, order: &str) -> Vec<Posted> {
        self.posted().into_iter().filter(|posted| posted.order() == order).collect()
    }
}

async fn serve(
    stream: TcpStream,
    posted: &Mutex<Vec<Posted>>,
    answer: &Answer,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        // What is no text is an error, and ends the connection.
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        assert_eq!(line, "POST /notices?from=turnstile HTTP/1.1\r\n");
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers["content-length"].parse().expect("a length");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let request = Posted { headers, body };
        let status = {
            let mut posted = posted.lock().expect("requests");
            let status = answer(&request, posted.len());
            posted.push(request);
            status
        };
        let Some(status) = status else { return std::future::pending().await };
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
    }
}
