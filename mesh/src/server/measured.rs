//! The size of what a client sends: a message that is too large is refused by its length, before it is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::error::Error;

/// How large a message from outside may be.
pub(super) const LARGEST: usize = 1024 * 1024;
/// Before each message: whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;

/// The body of a request, whose messages are measured as they go by.
#[derive(Debug)]
pub(super) struct Measured {
    inner: Body,
    scale: Scale,
}

impl Measured {
    pub(super) fn new(inner: Body) -> Self {
        Self { inner, scale: Scale::default() }
    }
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let fits = match &frame {
            Some(Ok(frame)) => frame.data_ref().is_none_or(|data| self.scale.fits(data)),
            _ => true,
        };
        Poll::Ready(if fits { frame } else { Some(Err(Error::TooLarge(LARGEST).into())) })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where in a message the next byte is.
#[derive(Debug, Default)]
struct Scale {
    prefix: [u8; PREFIX],
    read: usize,
    /// How much is left of the message that goes by.
    left: usize,
}

impl Scale {
    fn fits(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            if self.left == 0 && self.read < PREFIX {
                let some = data.len().min(PREFIX - self.read);
                self.prefix[self.read..self.read + some].copy_from_slice(&data[..some]);
                self.read += some;
                data = &data[some..];
                if self.read < PREFIX {
                    return true;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                if self.left > LARGEST {
                    return false;
                }
            }
            let some = data.len().min(self.left);
            self.left -= some;
            data = &data[some..];
            if self.left == 0 {
                self.read = 0;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&length.to_be_bytes());
        message.resize(PREFIX + length.min(100) as usize, 7);
        message
    }

    #[test]
    fn a_message_is_measured_by_its_length_alone() {
        assert!(Scale::default().fits(&message(1024 * 1024)));
        assert!(!Scale::default().fits(&message(1024 * 1024 + 1)));
        assert!(!Scale::default().fits(&message(u32::MAX)));
    }

    #[test]
    fn every_message_is_measured_however_it_is_cut() {
        let good = [message(0), message(100), message(3)].concat();
        let bad = [good.clone(), message(u32::MAX)].concat();
        for size in 1..good.len() {
            let mut scale = Scale::default();
            assert!(good.chunks(size).all(|chunk| scale.fits(chunk)), "in pieces of {size}");
            let mut scale = Scale::default();
            assert!(!bad.chunks(size).all(|chunk| scale.fits(chunk)), "in pieces of {size}");
        }
    }
}
