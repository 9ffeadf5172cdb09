//! TLS on both legs: the only module that names rustls.
//!
//! [`ServerTls`] terminates the downstream's TLS for one listener, [`ClientTls`] speaks TLS to the
//! `https://` endpoints of one upstream. Both are built from files, which may fail, long before a
//! connection needs them; once built they never touch the disk again.
//!
//! The cryptography is aws-lc-rs, named explicitly: no process-wide default provider is set or
//! read. TLS 1.2 (RFC 5246) and 1.3 (RFC 8446); no 0-RTT; no renegotiation.

mod certificate;
mod client;
pub mod self_signed;
mod server;
mod stream;

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::server::UnbufferedServerConnection;

pub use certificate::CertInfo;
pub use client::{ClientTls, Speaks, Wish};
pub use server::ServerTls;
pub use stream::TlsStream;

use crate::config::model::Span;

pub type ServerTlsStream = TlsStream<UnbufferedServerConnection>;
pub type ClientTlsStream = TlsStream<UnbufferedClientConnection>;

/// What is wrong with a certificate, a key or an authority, and where the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub span: Span,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Fault {
    fn new(span: &Span, message: impl Into<String>) -> Self {
        Self {
            span: span.clone(),
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Names of ALPN (RFC 7301, RFC 9113 section 3.2).
const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";

/// The one source of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
