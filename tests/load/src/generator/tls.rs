//! TLS of the benchmark: one certificate for all proxies, and what the generator offers.
//!
//! TLS 1.3 alone, X25519 alone, AES-128-GCM first: every proxy does the same cryptography.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertifiedKey, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme};

use crate::failure::{Failure, Result};

/// The certificate that every proxy shows, as files.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub(crate) joined: PathBuf,
    der: CertificateDer<'static>,
}

/// What the generator does about earlier sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    Full,
    Resumed,
}

impl Identity {
    /// Makes an ECDSA P-256 certificate for `localhost` in `folder`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(crate) fn make(folder: &Path) -> Result<Identity> {
        let failed = Failure::of("cannot make the certificate");
        let signing_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        let cert = rcgen::CertificateParams::new(vec![NAME.to_owned()])
            .and_then(|params| params.self_signed(&signing_key))
            .map_err(&failed)?;
        let CertifiedKey { cert, signing_key } = CertifiedKey { cert, signing_key };
        let identity = Identity {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            joined: folder.join("joined.pem"),
            der: cert.der().clone(),
        };
        let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
        fs::write(&identity.certificate, &certificate)?;
        fs::write(&identity.key, &key)?;
        fs::write(&identity.joined, certificate + &key)?;
        Ok(identity)
    }

    /// What the generator offers in its TLS handshakes.
    ///
    /// # Errors
    /// When rustls refuses the choice of algorithms.
    pub(crate) fn client(&self, sessions: Sessions, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        provider.cipher_suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Known {
                certificate: self.der.clone(),
                provider,
            }))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = match sessions {
            Sessions::Full => Resumption::disabled(),
            Sessions::Resumed => Resumption::store(Arc::new(Tickets::default())),
        };
        Ok(Arc::new(config))
    }
}

/// The name that every TLS handshake asks for.
///
/// # Errors
/// Never, but only rustls knows that.
pub(crate) fn server_name() -> io::Result<ServerName<'static>> {
    ServerName::try_from(NAME).map_err(io::Error::other)
}

/// Tickets of one proxy. rustls' own store keeps eight, fewer than there are connections at once.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl Tickets {
    fn all(&self) -> MutexGuard<'_, Vec<Tls13ClientSessionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut all = self.all();
        if all.len() < MOST_TICKETS {
            all.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.all().pop()
    }
}

/// Believes one certificate, without checking signatures: that would cost the generator more than
/// the proxy's signature costs the proxy, and nobody is between the two.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("not our certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const NAME: &str = "localhost";
/// More than there are connections at once in any row that resumes.
const MOST_TICKETS: usize = 256;
