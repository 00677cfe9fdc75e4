//! The contracts of Turnstile: generated messages, clients and servers, and the descriptors that carry the rules.
//!
//! Rust paths follow the packages: `turnstile.homemovie.app.v1` is [`homemovie::app::v1`].
#![allow(
    clippy::all,
    clippy::doc_markdown,
    clippy::too_long_first_doc_paragraph,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    reason = "nearly all of it is generated; a contract without comments is what missing_docs is left on for"
)]

/// Words that every system shares.
pub mod common {
    /// Money.
    pub mod v1 {
        tonic::include_proto!("turnstile.common.v1");
    }
}

/// The kit's own contracts: events, operations, and the options that carry the rules.
pub mod mesh {
    /// Events, `EventService`, `OperationsService`.
    pub mod v1 {
        tonic::include_proto!("turnstile.mesh.v1");
    }
}

/// Accounts and tokens.
pub mod identity {
    /// `IdentityService`.
    pub mod v1 {
        tonic::include_proto!("turnstile.identity.v1");
    }
}

/// Charges and refunds.
pub mod payment {
    /// `PaymentService`.
    pub mod v1 {
        tonic::include_proto!("turnstile.payment.v1");
    }
}

/// The customer's view over every system.
pub mod mypage {
    /// `MyPageService`.
    pub mod v1 {
        tonic::include_proto!("turnstile.mypage.v1");
    }
}

/// What customers are told.
pub mod notice {
    /// `NoticeService`.
    pub mod v1 {
        tonic::include_proto!("turnstile.notice.v1");
    }
}

/// Musical reservation.
pub mod outerpark {
    /// Performances and their seats.
    pub mod musical {
        /// `MusicalService`.
        pub mod v1 {
            tonic::include_proto!("turnstile.outerpark.musical.v1");
        }
    }
    /// Where customers reserve seats.
    pub mod reservation {
        /// `ReservationService`.
        pub mod v1 {
            tonic::include_proto!("turnstile.outerpark.reservation.v1");
        }
    }
}

/// Film purchase.
pub mod homemovie {
    /// Where customers pick films.
    pub mod app {
        /// `MovieApplicationService`.
        pub mod v1 {
            tonic::include_proto!("turnstile.homemovie.app.v1");
        }
    }
    /// The film catalogue and the purchased copies.
    pub mod movie {
        /// `MovieService`.
        pub mod v1 {
            tonic::include_proto!("turnstile.homemovie.movie.v1");
        }
    }
}

/// Every contract with its comments and options, encoded as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A request that changes state: the same `request_id` with the same content is carried out once.
pub trait Command: prost::Message + prost::Name + Default + Clone + 'static {
    /// The caller's UUID for this request.
    fn request_id(&self) -> &str;
}

include!(concat!(env!("OUT_DIR"), "/commands.rs"));
