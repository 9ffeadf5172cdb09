//! The client's side: TLS to the `https://` endpoints of one upstream.
//!
//! The endpoint's certificate is always verified, against the upstream's own authorities or the
//! system's, and for the endpoint's host or the configured `server_name`. There is no switch that
//! turns this off. Only HTTP/1.1 is offered, since tunnels and pooled connections speak nothing else.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;

use super::certificate;
use super::stream::TlsStream;
use super::{ClientTlsStream, Fault, provider};
use crate::config::model::{Span, UpstreamTls};
use crate::socket::Socket;

/// The TLS of one upstream, ready to connect.
pub struct ClientTls {
    settings: Arc<ClientConfig>,
    policy: Policy,
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
        let mut settings = match client_key {
            Some(key) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(ClientTls {
            settings: Arc::new(settings),
            policy,
        }))
    }

    /// Completes the TLS handshake with the server that `socket` reached.
    ///
    /// `host` is the endpoint's host or address without brackets; a configured `server_name` wins
    /// over it. Waits without a limit: the caller sets the deadline. A certificate that does not
    /// verify is an error of kind `InvalidData`.
    pub async fn connect(&self, socket: Socket, host: &str) -> io::Result<ClientTlsStream> {
        let name = match &self.policy.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.settings), name)
            .map_err(io::Error::other)?;
        TlsStream::handshake(socket, connection).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.policy.server_name)
            .finish_non_exhaustive()
    }
}
