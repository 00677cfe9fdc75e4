//! A client that speaks HTTP/2 itself, and not as it should.
//!
//! [`Peer`] has a sound connection and sends what it likes as a call; [`Wire`] writes frames that no library would.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tonic::Code;

/// A method that everybody may call, and that answers.
pub const GOOD: &str = "turnstile.homemovie.movie.v1.MovieService/ListMovies";

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub http: StatusCode,
    /// The gRPC status, where there is one.
    pub grpc: Option<Code>,
}

impl Answer {
    /// A gRPC answer with this status.
    pub fn of(code: Code) -> Self {
        Self { http: StatusCode::OK, grpc: Some(code) }
    }

    /// An answer that is no gRPC.
    pub fn plain(http: StatusCode) -> Self {
        Self { http, grpc: None }
    }
}

/// A connection of a client that writes its calls by hand.
#[derive(Debug, Clone)]
pub struct Peer {
    sender: SendRequest<Bytes>,
}

impl Peer {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (sender, connection) = h2::client::handshake(socket).await.expect("a handshake");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Begins a call; its body is the caller's to send.
    pub async fn begin(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = self.sender.clone().ready().await.expect("a connection that is open");
        sender.send_request(request, false).expect("a request that is sent")
    }

    /// Makes a whole call.
    pub async fn call(&self, request: Request<()>, body: impl Into<Bytes>) -> Answer {
        let (answer, mut sender) = self.begin(request).await;
        // Who is refused at once need not be heard to the end.
        let _ = sender.send_data(body.into(), true);
        read(answer).await
    }
}

/// A request as every gRPC client sends it.
pub fn request(method: &str) -> Request<()> {
    request_as(method, "application/grpc")
}

/// A request with this content-type.
pub fn request_as(method: &str, kind: &str) -> Request<()> {
    let request = Request::post(format!("http://localhost/{method}"));
    request.header("content-type", kind).header("te", "trailers").body(()).expect("a request")
}

/// A message with its prefix: whether it is compressed, and its length, true or not.
pub fn message(flag: u8, length: u32, data: &[u8]) -> Bytes {
    let mut message = vec![flag];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(data);
    message.into()
}

/// The answer to a call, whether its status is in the headers or in the trailers.
pub async fn read(answer: ResponseFuture) -> Answer {
    let response: Response<_> = answer.await.expect("an answer");
    let http = response.status();
    let (head, mut body) = response.into_parts();
    while let Some(data) = body.data().await {
        let data = data.expect("a body");
        body.flow_control().release_capacity(data.len()).expect("room");
    }
    let trailers = body.trailers().await.expect("trailers").unwrap_or_default();
    let status = head.headers.get("grpc-status").or_else(|| trailers.get("grpc-status"));
    Answer { http, grpc: status.map(|status| Code::from_bytes(status.as_bytes())) }
}

/// A connection on which frames are written by hand.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
}

/// The kinds of frames.
#[expect(missing_docs, reason = "as RFC 9113 names them")]
pub mod kind {
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
}

/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;

/// A frame that the server sent.
#[derive(Debug)]
pub struct Frame {
    /// Which kind.
    pub kind: u8,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Why a `RST_STREAM` or a `GOAWAY` was sent.
    pub fn reason(&self) -> Option<Reason> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let code: [u8; 4] = self.payload.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(code).into())
    }
}

impl Wire {
    /// Connects, with these settings.
    pub async fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a preface");
        let mut wire = Self { socket };
        assert!(wire.write(&frame(kind::SETTINGS, 0, 0, settings)).await, "settings");
        wire
    }

    /// Writes; whether the other side still takes it.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// Its two directions, to read and to write at once.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.socket.into_split()
    }

    /// The next frame; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], payload })
    }

    /// The next frame of this kind; none when the connection has ended without one.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of a sane length").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The headers of a call of [`GOOD`], each written out: nothing to remember for either side.
pub fn headers() -> Vec<u8> {
    // `:method POST` and `:scheme http` are in the static table.
    let mut block = vec![0x83, 0x86];
    let fields = [(":path", format!("/{GOOD}")), (":authority", "localhost".to_owned())];
    let more = [("content-type", "application/grpc"), ("te", "trailers")];
    let more = more.map(|(name, value)| (name, value.to_owned()));
    for (name, value) in fields.into_iter().chain(more) {
        block.push(0);
        for text in [name, &value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
