//! TLS on both legs: the only module that names rustls.

use crate::stream::Socket;

pub type ServerTlsStream = tokio_rustls::server::TlsStream<Socket>;
pub type ClientTlsStream = tokio_rustls::client::TlsStream<Socket>;
