//! The client's side: TLS to the `https://` endpoints of one upstream.
//!
//! The endpoint's certificate is always verified, against the upstream's own authorities or the
//! system's, and for the endpoint's host or the configured `server_name`. There is no switch that
//! turns this off. What is offered by ALPN (RFC 7301) is each connection's own [`Wish`]; a session is
//! resumed only under the wish that it began with.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;

use super::certificate;
use super::stream::TlsStream;
use super::{ClientTlsStream, Fault, H2, HTTP_11, provider};
use crate::config::model::{Span, UpstreamTls};
use crate::socket::Socket;

/// The TLS of one upstream, ready to connect.
pub struct ClientTls {
    settings: Settings,
    policy: Policy,
}

/// What a new connection to a server shall speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Http1,
    Http2,
    /// Whichever the server chooses by ALPN; without TLS HTTP/1.1.
    Either,
}

/// What a connection to a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
}

/// One of each wish: alike but for what is offered, and where sessions are kept.
struct Settings {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

/// What a kept-alive connection was opened under.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    /// `None`: the system's.
    authorities: Option<Vec<CertificateDer<'static>>>,
    client_cert: Option<Vec<CertificateDer<'static>>>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Reads the authorities and the client certificate of an upstream.
    ///
    /// Gives back `previous` itself when nothing changed, so that pointer equality tells whether
    /// connections opened under it are still good; the system's authorities are then not read
    /// again. `span` is blamed for faults that belong to no single key. Reads files, so it belongs
    /// off the serving threads.
    pub fn build(
        config: &UpstreamTls,
        span: &Span,
        previous: Option<&Arc<ClientTls>>,
    ) -> Result<Arc<ClientTls>, Vec<Fault>> {
        let mut faults = Vec::new();
        let authorities = config
            .ca
            .as_ref()
            .and_then(|ca| certificate::load_authorities(ca, &mut faults));
        let client_key = config
            .client_cert
            .as_ref()
            .and_then(|source| certificate::load_certified_key(source, &mut faults))
            .map(|(key, _)| Arc::new(key));
        let server_name = config.server_name.as_ref().and_then(|name| {
            ServerName::try_from(name.value.clone())
                .map_err(|_| {
                    let message = format!("`{}` is no host name", name.value);
                    faults.push(Fault::new(&name.span, message));
                })
                .ok()
        });
        if !faults.is_empty() {
            return Err(faults);
        }

        let (roots, authorities) = authorities.unzip();
        let policy = Policy {
            authorities,
            client_cert: client_key.as_ref().map(|key| key.cert.clone()),
            server_name,
        };
        if let Some(previous) = previous.filter(|previous| previous.policy == policy) {
            return Ok(previous.clone());
        }

        let provider = provider();
        let verifier: Result<Arc<dyn ServerCertVerifier>, String> = match roots {
            Some(roots) => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map(|verifier| verifier as _)
                    .map_err(|error| error.to_string())
            }
            None => Verifier::new(provider.clone())
                .map(|verifier| Arc::new(verifier) as _)
                .map_err(|error| error.to_string()),
        };
        let verifier = verifier.map_err(|error| {
            let message = format!("no authorities to verify `https://` servers with: {error}");
            let hint = "install the system's CA certificates, or set `tls.ca`";
            vec![Fault::new(span, message).hint(hint)]
        })?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| {
                let message = format!("these TLS settings cannot be used: {error}");
                vec![Fault::new(span, message)]
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let settings = match client_key {
            Some(key) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(ClientTls {
            settings: Settings::of(&settings),
            policy,
        }))
    }

    /// Completes the TLS handshake with the server that `socket` reached, and tells what it chose.
    ///
    /// `host` is the endpoint's host or address without brackets; a configured `server_name` wins
    /// over it. Waits without a limit: the caller sets the deadline. A certificate that does not
    /// verify is an error of kind `InvalidData`. A server that knows no ALPN speaks HTTP/1.1; where
    /// only HTTP/2 was wished for, that is an error.
    pub async fn connect(
        &self,
        socket: Socket,
        host: &str,
        wish: Wish,
    ) -> io::Result<(ClientTlsStream, Speaks)> {
        let name = match &self.policy.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        let settings = Arc::clone(self.settings.offering(wish));
        let connection =
            UnbufferedClientConnection::new(settings, name).map_err(io::Error::other)?;
        let stream = TlsStream::handshake(socket, connection).await?;
        match (wish, stream.settled().alpn_protocol()) {
            (_, Some(H2)) => Ok((stream, Speaks::Http2)),
            (Wish::Http2, _) => Err(io::Error::other("the server did not choose HTTP/2")),
            _ => Ok((stream, Speaks::Http1)),
        }
    }
}

impl Settings {
    fn of(config: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|&name| name.into()).collect();
            config.resumption = Resumption::default();
            Arc::new(config)
        };
        Settings {
            http1: offering(&[HTTP_11]),
            http2: offering(&[H2]),
            either: offering(&[H2, HTTP_11]),
        }
    }

    fn offering(&self, wish: Wish) -> &Arc<ClientConfig> {
        match wish {
            Wish::Http1 => &self.http1,
            Wish::Http2 => &self.http2,
            Wish::Either => &self.either,
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.policy.server_name)
            .finish_non_exhaustive()
    }
}
