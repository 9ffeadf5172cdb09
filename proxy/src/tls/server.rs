//! The server's side: certificates by SNI, client certificates, session tickets.
//!
//! A [`ServerTls`] is one *policy*: its certificates, its demands on client certificates and its
//! lowest version. Every policy has ticket keys of its own, so a ticket that one listener issued
//! opens nothing on another (a resumed session skips the client-certificate check). A reload that
//! leaves the policy as it was keeps the ticket keys; one that changes it starts new ones.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{
    ClientHello, NoClientAuth, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions, UnbufferedServerConnection, WebPkiClientVerifier,
    danger::ClientCertVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion, ServerConfig};

use super::certificate::{self, CertInfo};
use super::stream::TlsStream;
use super::{Fault, H2, HTTP_11, ServerTlsStream, provider};
use crate::config::model::{ClientAuth, ListenerTls, TlsVersion};
use crate::facts::TlsFacts;
use crate::socket::Socket;

/// The TLS of one listener, ready to accept.
pub struct ServerTls {
    settings: ServerConfig,
    names: Arc<Names>,
    certs: Vec<CertInfo>,
    warnings: Vec<Fault>,
    policy: Policy,
    sessions: Sessions,
}

/// What a session ticket vouches for.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    min_version: TlsVersion,
    certs: Vec<CertificateDer<'static>>,
    /// The authorities, and whether a certificate is demanded.
    client_auth: Option<(Vec<CertificateDer<'static>>, bool)>,
}

/// Where resumable sessions live: tickets, and for old TLS 1.2 clients a small cache.
#[derive(Debug, Clone)]
struct Sessions {
    ticketer: Arc<dyn ProducesTickets>,
    cache: Arc<dyn StoresServerSessions>,
}

/// Which certificates serve which names.
#[derive(Debug, Default)]
struct Names {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By the part behind the asterisk: `.example.com`.
    wildcard: HashMap<String, Vec<usize>>,
}

/// The certificates, for one handshake, and the name that its client asked for: rustls' unbuffered
/// connection tells it to nobody else.
#[derive(Debug)]
struct Sni {
    names: Arc<Names>,
    asked: OnceLock<Arc<str>>,
}

impl ServerTls {
    /// Reads the certificates and keys of a listener and makes its TLS settings.
    ///
    /// `http2` says whether HTTP/2 is offered before HTTP/1.1. `previous` is the same listener's TLS
    /// before a reload: its ticket keys live on if the policy did not change. Reads files, so it
    /// belongs off the serving threads. Every fault of every file is returned at once.
    pub fn build(
        config: &ListenerTls,
        http2: bool,
        previous: Option<&ServerTls>,
    ) -> Result<Arc<ServerTls>, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut names = Names::default();
        let mut certs = Vec::new();
        for source in &config.certs {
            if let Some((key, info)) = certificate::load_certified_key(source, &mut faults) {
                names.add(key, &info);
                certs.push(info);
            }
        }
        let provider = provider();
        let client_auth = config.client_auth.as_ref();
        let verifier = client_verifier(client_auth, &provider, &mut faults);
        let (Some((verifier, authorities)), true) = (verifier, faults.is_empty()) else {
            return Err(faults);
        };

        let policy = Policy {
            min_version: config.min_version,
            certs: names.leaves(),
            client_auth: client_auth.map(|auth| (authorities, auth.required)),
        };
        let unusable = |error: rustls::Error| {
            let message = format!("these TLS settings cannot be used: {error}");
            vec![Fault::new(&config.span, message)]
        };
        let sessions = match previous {
            Some(previous) if previous.policy == policy => previous.sessions.clone(),
            _ => Sessions::new().map_err(unusable)?,
        };
        let names = Arc::new(names);
        let mut settings = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(config.min_version))
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Sni {
                names: names.clone(),
                asked: OnceLock::new(),
            }));
        settings.alpn_protocols = alpn(http2);
        settings.ticketer = sessions.ticketer.clone();
        settings.session_storage = sessions.cache.clone();
        settings.send_tls13_tickets = TLS13_TICKETS;
        settings.max_tls13_tickets = MOST_TLS13_TICKETS;
        settings.max_early_data_size = 0;

        Ok(Arc::new(ServerTls {
            settings,
            names,
            warnings: warnings(config, &certs),
            certs,
            policy,
            sessions,
        }))
    }

    /// Completes the TLS handshake and tells what it settled.
    ///
    /// Waits for the client without a limit: the caller sets the deadline. On an error the client
    /// has been sent the alert, and the socket is gone.
    pub async fn accept(&self, socket: Socket) -> io::Result<(ServerTlsStream, TlsFacts)> {
        let sni = Arc::new(Sni {
            names: Arc::clone(&self.names),
            asked: OnceLock::new(),
        });
        // Dropped again when the handshake is over.
        let mut settings = self.settings.clone();
        settings.cert_resolver = Arc::clone(&sni) as _;
        let connection =
            UnbufferedServerConnection::new(Arc::new(settings)).map_err(io::Error::other)?;
        let stream = TlsStream::handshake(socket, connection).await?;
        let facts = facts(stream.settled(), sni.asked.get().cloned());
        Ok((stream, facts))
    }

    /// Whether a connection opened for `sni` may carry a request for `host`; if not, answer 421.
    ///
    /// It may if both names are served by the same certificates (RFC 9110, section 7.4). Names that
    /// no certificate has, and bare addresses, are served by the first certificate. A client that
    /// sent no SNI may ask for any host: all hosts of a listener share its client-certificate
    /// policy, so it gains nothing by the omission. `host` carries no port; IPv6 may be bracketed.
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        match sni {
            Some(sni) if sni != host => self.names.find(sni) == self.names.find(host),
            _ => true,
        }
    }

    /// The certificates in the order of the configuration.
    pub fn certs(&self) -> &[CertInfo] {
        &self.certs
    }

    /// What does not stop the listener but deserves a word: expired or nameless certificates.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_client_certificate(&self) -> bool {
        self.policy.client_auth.is_some()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certs", &self.certs)
            .finish_non_exhaustive()
    }
}

impl Sessions {
    fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            ticketer: rustls::crypto::aws_lc_rs::Ticketer::new()?,
            cache: ServerSessionMemoryCache::new(CACHED_SESSIONS),
        })
    }
}

impl Names {
    fn add(&mut self, key: CertifiedKey, info: &CertInfo) {
        let index = self.keys.len();
        self.keys.push(Arc::new(key));
        for name in &info.names {
            match name.strip_prefix('*') {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                None => self.exact.entry(name.clone()).or_default(),
            }
            .push(index);
        }
    }

    /// The certificates for a name in configuration order: exact, else wildcard, else the first.
    fn find(&self, name: &str) -> &[usize] {
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name);
        self.exact
            .get(name)
            .or_else(|| {
                // A wildcard stands for exactly one label (RFC 9525, section 6.3).
                let dot = name.find('.').filter(|&dot| dot > 0)?;
                let is_address = name.parse::<IpAddr>().is_ok();
                self.wildcard.get(&name[dot..]).filter(|_| !is_address)
            })
            .map_or(&[0], Vec::as_slice)
    }

    fn leaves(&self) -> Vec<CertificateDer<'static>> {
        self.keys
            .iter()
            .filter_map(|key| key.cert.first().cloned())
            .collect()
    }
}

impl ResolvesServerCert for Sni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client that is asked for a second hello repeats the name (RFC 8446, section 4.1.2).
        let name = hello
            .server_name()
            .map(|name| self.asked.get_or_init(|| name.to_ascii_lowercase().into()));
        let candidates = name.map_or(&[0][..], |name| self.names.find(name));
        let offered = hello.signature_schemes();
        candidates
            .iter()
            .filter_map(|&index| self.names.keys.get(index))
            // An ECDSA and an RSA certificate of one name: the first that the client can verify.
            .find(|key| key.key.choose_scheme(offered).is_some())
            .cloned()
    }
}

fn client_verifier(
    auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
    faults: &mut Vec<Fault>,
) -> Option<(Arc<dyn ClientCertVerifier>, Vec<CertificateDer<'static>>)> {
    let Some(auth) = auth else {
        return Some((Arc::new(NoClientAuth), Vec::new()));
    };
    let (roots, authorities) = certificate::load_authorities(&auth.ca, faults)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = if auth.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    match builder.build() {
        Ok(verifier) => Some((verifier, authorities)),
        Err(error) => {
            let path = auth.ca.value.display();
            let message = format!("the authorities in `{path}` cannot be used: {error}");
            faults.push(Fault::new(&auth.ca.span, message));
            None
        }
    }
}

fn warnings(config: &ListenerTls, certs: &[CertInfo]) -> Vec<Fault> {
    let now = SystemTime::now();
    let mut warnings = Vec::new();
    for (index, (source, info)) in config.certs.iter().zip(certs).enumerate() {
        let path = info.path.display();
        if info.has_expired(now) {
            let days = -info.days_left(now);
            let message = format!("the certificate `{path}` expired {days} day(s) ago");
            warnings.push(Fault::new(&source.cert.span, message).hint("clients will refuse it"));
        }
        if info.names.is_empty() {
            let fault = Fault::new(
                &source.cert.span,
                format!("the certificate `{path}` has no subject alternative name"),
            );
            warnings.push(fault.hint(if index == 0 {
                "browsers and most clients will refuse it"
            } else {
                "no SNI can choose it: it is never used"
            }));
        }
    }
    warnings
}

fn facts(connection: &CommonState, sni: Option<Arc<str>>) -> TlsFacts {
    TlsFacts {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: connection
            .negotiated_cipher_suite()
            .map_or("unknown", |suite| cipher_name(suite.suite())),
        sni,
        client_subject: connection
            .peer_certificates()
            .and_then(|chain| certificate::subject(chain.first()?))
            .map(Into::into),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        http2: connection.alpn_protocol() == Some(H2),
    }
}

/// rustls spells the TLS 1.3 suites `TLS13_…`; IANA does not.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

fn versions(min: TlsVersion) -> &'static [&'static rustls::SupportedProtocolVersion] {
    match min {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => TLS13_ONLY,
    }
}

fn alpn(http2: bool) -> Vec<Vec<u8>> {
    let protocols: &[&[u8]] = if http2 { &[H2, HTTP_11] } else { &[HTTP_11] };
    protocols.iter().map(|&protocol| protocol.into()).collect()
}

const TLS13_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// One: a ticket opens one connection, which brings the next ticket, so a client has as many as it
/// had connections. A second one costs a twentieth of a TLS handshake.
const TLS13_TICKETS: usize = 1;
/// What a client gets that asks for more (RFC 9149).
const MOST_TLS13_TICKETS: usize = 4;

/// Sessions of TLS 1.2 clients that know session ids but no tickets.
const CACHED_SESSIONS: usize = 256;
