//! Real TLS over real sockets, with certificates made for each test.

mod stream;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, TicketRequest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::model::{CertSource, ClientAuth, ListenerTls, Located, TlsVersion, UpstreamTls};
use crate::facts::TlsFacts;
use crate::socket::Socket;

/// An authority and a folder for what it signs.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn path(&self, file: &str) -> Located<PathBuf> {
        Located {
            value: self.folder.path().join(file),
            span: 7..9,
        }
    }

    fn write(&self, file: &str, text: &str) -> Located<PathBuf> {
        let path = self.path(file);
        fs::write(&path.value, text).unwrap();
        path
    }

    fn sign(&self, file: &str, names: &[&str]) -> CertSource {
        self.sign_with(file, names, |_| {})
    }

    fn sign_with(
        &self,
        file: &str,
        names: &[&str],
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> CertSource {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        CertSource {
            cert: self.write(&format!("{file}.crt"), &cert.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    fn client(&self, identity: Option<&CertSource>) -> ClientConfig {
        self.client_of_version(identity, &rustls::version::TLS13)
    }

    fn client_of_version(
        &self,
        identity: Option<&CertSource>,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots());
        match identity {
            None => builder.with_no_client_auth(),
            Some(source) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(&source.cert.value).unwrap()],
                    PrivateKeyDer::from_pem_file(&source.key.value).unwrap(),
                )
                .unwrap(),
        }
    }
}

fn listener(certs: Vec<CertSource>) -> ListenerTls {
    ListenerTls {
        certs,
        client_auth: None,
        min_version: TlsVersion::Tls12,
        span: 0..3,
    }
}

fn with_client_auth(mut config: ListenerTls, ca: Located<PathBuf>, required: bool) -> ListenerTls {
    config.client_auth = Some(ClientAuth { ca, required });
    config
}

/// What one connection showed to each side.
struct Outcome {
    facts: TlsFacts,
    leaf: CertificateDer<'static>,
    kind: HandshakeKind,
}

/// One byte goes each way, so that tickets arrive and a refused client hears of it.
async fn connect(
    server: &ServerTls,
    client: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<Outcome> {
    let (near, far) = UnixStream::pair()?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let accept = async {
        let (mut stream, facts) = server.accept(Socket::Unix(far)).await?;
        stream.write_all(b"!").await?;
        stream.read_u8().await?;
        io::Result::Ok(facts)
    };
    let connect = async {
        let mut stream = TlsConnector::from(client.clone())
            .connect(name, near)
            .await?;
        stream.read_u8().await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates().unwrap()[0].clone();
        io::Result::Ok((leaf.into_owned(), connection.handshake_kind().unwrap()))
    };
    let (facts, seen) = tokio::join!(accept, connect);
    let (leaf, kind) = seen?;
    Ok(Outcome {
        facts: facts?,
        leaf,
        kind,
    })
}

#[tokio::test]
async fn sni_chooses_the_certificate() {
    let ca = Authority::new();
    let sources = [
        ca.sign("default", &["default.test", "10.1.2.3"]),
        ca.sign("exact", &["ws.example.com"]),
        ca.sign("wild", &["*.example.com", "example.com"]),
    ];
    let server = ServerTls::build(&listener(sources.to_vec()), true, None).unwrap();
    let leaves = sources.map(|source| CertificateDer::from_pem_file(&source.cert.value).unwrap());

    for (name, expected) in [
        ("default.test", 0),
        ("ws.example.com", 1),
        ("WS.Example.COM", 1),
        ("other.example.com", 2),
        ("example.com", 2),
    ] {
        let outcome = connect(&server, &Arc::new(ca.client(None)), name)
            .await
            .unwrap();
        assert!(outcome.leaf == leaves[expected], "{name}");
        assert_eq!(outcome.facts.sni.as_deref(), Some(&*name.to_lowercase()));
        assert!(!outcome.facts.resumed);
    }
    // The default certificate is shown, and the client judges it.
    for name in ["a.b.example.com", "unknown.test"] {
        let refused = connect(&server, &Arc::new(ca.client(None)), name).await;
        assert!(refused.is_err(), "{name}");
    }
    let by_address = connect(&server, &Arc::new(ca.client(None)), "10.1.2.3").await;
    assert_eq!(by_address.unwrap().facts.sni, None);
}

#[test]
fn a_request_must_stay_with_the_certificate_of_its_sni() {
    let ca = Authority::new();
    let server = ServerTls::build(
        &listener(vec![
            ca.sign("default", &["default.test", "10.1.2.3", "::1"]),
            ca.sign("a", &["a.test", "b.test"]),
            ca.sign("wild", &["*.wild.test"]),
        ]),
        true,
        None,
    )
    .unwrap();
    let check = |sni: Option<&str>, host: &str, expected: bool| {
        assert_eq!(server.covers(sni, host), expected, "{sni:?} {host}");
    };
    check(Some("a.test"), "a.test", true);
    check(Some("a.test"), "b.test", true);
    check(Some("a.test"), "b.test.", true);
    check(Some("a.test"), "default.test", false);
    check(Some("a.test"), "unknown.test", false);
    check(Some("x.wild.test"), "y.wild.test", true);
    check(Some("x.wild.test"), "x.y.wild.test", false);
    check(Some("x.wild.test"), "wild.test", false);
    check(Some("unknown.test"), "default.test", true);
    check(Some("unknown.test"), "a.test", false);
    check(Some("default.test"), "10.1.2.3", true);
    check(Some("default.test"), "[::1]", true);
    check(Some("a.test"), "[::1]", false);
    check(None, "a.test", true);
    check(None, "10.9.9.9", true);
}

#[tokio::test]
async fn version_cipher_and_protocol_are_reported() {
    let ca = Authority::new();
    let mut config = listener(vec![ca.sign("a", &["a.test"])]);
    let server = ServerTls::build(&config, true, None).unwrap();
    let mut client = ca.client(None);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Arc::new(client);
    let facts = connect(&server, &client, "a.test").await.unwrap().facts;
    assert_eq!(facts.version, "TLSv1.3");
    assert!(facts.cipher.starts_with("TLS_"), "{}", facts.cipher);
    assert!(facts.http2);

    let server = ServerTls::build(&config, false, None).unwrap();
    let facts = connect(&server, &client, "a.test").await.unwrap().facts;
    assert!(!facts.http2);

    let old = Arc::new(ca.client_of_version(None, &rustls::version::TLS12));
    let facts = connect(&server, &old, "a.test").await.unwrap().facts;
    assert_eq!(facts.version, "TLSv1.2");
    assert!(facts.cipher.starts_with("TLS_ECDHE_"), "{}", facts.cipher);

    config.min_version = TlsVersion::Tls13;
    let server = ServerTls::build(&config, true, None).unwrap();
    assert!(connect(&server, &old, "a.test").await.is_err());
}

#[tokio::test]
async fn a_client_certificate_names_its_subject() {
    let ca = Authority::new();
    let stranger = Authority::new();
    let identify = |authority: &Authority| {
        authority.sign_with("client", &[], |params| {
            params.distinguished_name = DistinguishedName::new();
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Acme, Inc.");
            name.push(DnType::CommonName, "device 7\r\nX-Admin: yes");
        })
    };
    let config = listener(vec![ca.sign("a", &["a.test"])]);
    let required = with_client_auth(config.clone(), ca.path("ca.pem"), true);
    let optional = with_client_auth(config, ca.path("ca.pem"), false);
    let required = ServerTls::build(&required, true, None).unwrap();
    let optional = ServerTls::build(&optional, true, None).unwrap();

    let known = Arc::new(ca.client(Some(&identify(&ca))));
    let unknown = Arc::new(ca.client(Some(&identify(&stranger))));
    let nobody = Arc::new(ca.client(None));
    for server in [&required, &optional] {
        let facts = connect(server, &known, "a.test").await.unwrap().facts;
        assert_eq!(
            facts.client_subject.as_deref(),
            Some("CN=device 7\\0D\\0AX-Admin: yes,O=Acme\\, Inc."),
        );
        assert!(connect(server, &unknown, "a.test").await.is_err());
        assert!(server.asks_client_certificate());
    }
    assert!(connect(&required, &nobody, "a.test").await.is_err());
    let facts = connect(&optional, &nobody, "a.test").await.unwrap().facts;
    assert_eq!(facts.client_subject, None);
}

#[tokio::test]
async fn one_ticket_or_as_many_as_the_client_asks_for_and_no_early_data() {
    let ca = Authority::new();
    let server = ServerTls::build(&listener(vec![ca.sign("a", &["a.test"])]), true, None).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let ask = |new_session_count, resumption_count| {
        Some(TicketRequest {
            new_session_count,
            resumption_count,
        })
    };
    for (request, after_full, after_resumed) in [
        (None, 1, 1),
        (ask(3, 0), 3, 0),
        (ask(1, 2), 1, 2),
        (ask(255, 255), 4, 4),
    ] {
        let store = Arc::new(ClientSessionMemoryCache::new(32));
        let mut client = ca.client(None);
        client.resumption = Resumption::store(store.clone());
        client.send_ticket_request = request;
        let client = Arc::new(client);
        let tickets = || {
            let taken: Vec<_> = std::iter::from_fn(|| store.take_tls13_ticket(&name)).collect();
            assert!(taken.iter().all(|ticket| ticket.max_early_data_size() == 0));
            taken
        };

        connect(&server, &client, "a.test").await.unwrap();
        let mut first = tickets();
        assert_eq!(first.len(), after_full);
        store.insert_tls13_ticket(name.clone(), first.remove(0));
        let outcome = connect(&server, &client, "a.test").await.unwrap();
        assert!(outcome.facts.resumed);
        assert_eq!(tickets().len(), after_resumed);
    }
}

#[tokio::test]
async fn a_ticket_is_good_for_its_own_policy_only() {
    let ca = Authority::new();
    let open = listener(vec![ca.sign("a", &["a.test"])]);
    let renewed = listener(vec![ca.sign("renewed", &["a.test"])]);
    let strict = with_client_auth(open.clone(), ca.path("ca.pem"), true);
    let lenient = with_client_auth(open.clone(), ca.path("ca.pem"), false);
    let identity = ca.sign("client", &[]);

    /// Whether a session of `first` is resumed by `second`, for TLS 1.3 and 1.2.
    async fn resumes(
        ca: &Authority,
        identity: &CertSource,
        first: &ServerTls,
        second: &ServerTls,
    ) -> bool {
        let mut resumed = Vec::new();
        for version in rustls::ALL_VERSIONS {
            let client = Arc::new(ca.client_of_version(Some(identity), version));
            connect(first, &client, "a.test").await.unwrap();
            let outcome = connect(second, &client, "a.test").await.unwrap();
            assert_eq!(
                outcome.kind == HandshakeKind::Resumed,
                outcome.facts.resumed
            );
            resumed.push(outcome.facts.resumed);
        }
        assert!(resumed.iter().all(|&one| one == resumed[0]), "{resumed:?}");
        resumed[0]
    }

    let before = ServerTls::build(&open, true, None).unwrap();
    let other_listener = ServerTls::build(&open, true, None).unwrap();
    let reloaded = ServerTls::build(&open, true, Some(&before)).unwrap();
    let renewed = ServerTls::build(&renewed, true, Some(&before)).unwrap();
    let strict = ServerTls::build(&strict, true, Some(&before)).unwrap();
    let lenient_before = ServerTls::build(&lenient, true, None).unwrap();
    let strict_after_lenient = {
        let mut config = lenient.clone();
        config.client_auth.as_mut().unwrap().required = true;
        ServerTls::build(&config, true, Some(&lenient_before)).unwrap()
    };
    assert!(resumes(&ca, &identity, &before, &before).await);
    assert!(resumes(&ca, &identity, &before, &reloaded).await);
    assert!(!resumes(&ca, &identity, &before, &other_listener).await);
    assert!(!resumes(&ca, &identity, &before, &renewed).await);
    assert!(!resumes(&ca, &identity, &before, &strict).await);
    assert!(!resumes(&ca, &identity, &lenient_before, &strict_after_lenient).await);
}

#[tokio::test]
async fn a_resumed_session_keeps_its_client_certificate() {
    let ca = Authority::new();
    let identity = ca.sign_with("client", &[], |params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "device 7");
    });
    let config = listener(vec![ca.sign("a", &["a.test"])]);
    let config = with_client_auth(config, ca.path("ca.pem"), true);
    let server = ServerTls::build(&config, true, None).unwrap();
    let client = Arc::new(ca.client(Some(&identity)));
    for resumed in [false, true] {
        let facts = connect(&server, &client, "a.test").await.unwrap().facts;
        assert_eq!(facts.resumed, resumed);
        let subject = facts.client_subject.unwrap();
        assert!(subject.contains("CN=device 7"), "{subject}");
    }
}

#[test]
fn every_fault_is_named_and_located() {
    let ca = Authority::new();
    let good = ca.sign("good", &["a.test"]);
    let other = ca.sign("other", &["b.test"]);
    ca.write("empty.pem", "nothing here\n");
    ca.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    ca.write(
        "garbage.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    ca.write("cut.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let check = |cert: &str, key: &str, expected: &[&str]| {
        let source = CertSource {
            cert: ca.path(cert),
            key: ca.path(key),
        };
        let faults = ServerTls::build(&listener(vec![source]), true, None).unwrap_err();
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for (fault, expected) in faults.iter().zip(expected) {
            assert!(fault.message.contains(expected), "{fault:?}");
            assert_eq!(fault.span, 7..9);
        }
    };
    check("missing.crt", "good.key", &["cannot read"]);
    check(
        "missing.crt",
        "missing.key",
        &["cannot read", "cannot read"],
    );
    check(
        "empty.pem",
        "empty.pem",
        &["no certificate", "no private key"],
    );
    check("good.crt", "encrypted.key", &["is encrypted"]);
    check("good.crt", "other.key", &["does not belong to"]);
    check(
        "garbage.crt",
        "good.key",
        &["not a valid X.509 certificate"],
    );
    check("cut.crt", "good.key", &["not valid PEM"]);

    let no_ca = with_client_auth(listener(vec![good.clone()]), ca.path("empty.pem"), true);
    let faults = ServerTls::build(&no_ca, true, None).unwrap_err();
    assert!(faults[0].message.contains("no certificate"), "{faults:?}");
    let bad_ca = with_client_auth(listener(vec![good]), ca.path("garbage.crt"), true);
    let faults = ServerTls::build(&bad_ca, true, None).unwrap_err();
    assert!(faults[0].message.contains("cannot be used"), "{faults:?}");

    // Faults of different files come together.
    let mut several = listener(vec![other]);
    several.certs[0].key = ca.path("missing.key");
    let several = with_client_auth(several, ca.path("missing.pem"), true);
    assert_eq!(ServerTls::build(&several, true, None).unwrap_err().len(), 2);
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let ca = Authority::new();
    let expired = ca.sign_with("old", &["A.test", "*.B.test", "::1"], |params| {
        params.not_after = (SystemTime::now() - Duration::from_secs(36 * 3600)).into();
    });
    let nameless = ca.sign("nameless", &[]);
    let server = ServerTls::build(&listener(vec![expired, nameless]), true, None).unwrap();
    let messages: Vec<_> = server
        .warnings()
        .iter()
        .map(|fault| &fault.message)
        .collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("expired 2 day(s) ago"), "{messages:?}");
    assert!(
        messages[1].contains("no subject alternative name"),
        "{messages:?}"
    );
    assert_eq!(server.certs()[0].names, ["a.test", "*.b.test", "::1"]);
    assert_eq!(server.certs()[0].days_left(SystemTime::now()), -2);
}

/// Connects a [`ClientTls`] to a server and tells both sides' results.
async fn call(
    client: &ClientTls,
    server: &ServerTls,
    host: &str,
) -> (io::Result<Speaks>, io::Result<TlsFacts>) {
    wish(client, server, host, Wish::Http1).await
}

/// The same with a wish of its own.
async fn wish(
    client: &ClientTls,
    server: &ServerTls,
    host: &str,
    wish: Wish,
) -> (io::Result<Speaks>, io::Result<TlsFacts>) {
    let (near, far) = UnixStream::pair().unwrap();
    let accept = async {
        let (mut stream, facts) = server.accept(Socket::Unix(far)).await?;
        stream.write_all(b"!").await?;
        Ok(facts)
    };
    let connect = async {
        let (mut stream, speaks) = client.connect(Socket::Unix(near), host, wish).await?;
        stream.read_u8().await.map(|_| speaks)
    };
    tokio::join!(connect, accept)
}

#[tokio::test]
async fn an_upstream_is_verified() {
    let ca = Authority::new();
    let stranger = Authority::new();
    let server = listener(vec![ca.sign("a", &["a.test", "127.0.0.1"])]);
    let server = with_client_auth(server, ca.path("ca.pem"), false);
    let server = ServerTls::build(&server, true, None).unwrap();
    let build = |config: UpstreamTls| ClientTls::build(&config, &(1..2), None).unwrap();
    let trusting = UpstreamTls {
        ca: Some(ca.path("ca.pem")),
        ..UpstreamTls::default()
    };

    let client = build(trusting.clone());
    let (seen, facts) = call(&client, &server, "a.test").await;
    seen.unwrap();
    let facts = facts.unwrap();
    assert_eq!(facts.sni.as_deref(), Some("a.test"));
    assert!(!facts.http2);
    assert_eq!(facts.client_subject, None);
    call(&client, &server, "127.0.0.1").await.0.unwrap();
    let error = call(&client, &server, "b.test").await.0.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");

    let renamed = build(UpstreamTls {
        server_name: Some(Located {
            value: "a.test".to_owned(),
            span: 3..4,
        }),
        ..trusting.clone()
    });
    call(&renamed, &server, "b.test").await.0.unwrap();

    let distrusting = build(UpstreamTls {
        ca: Some(stranger.path("ca.pem")),
        ..UpstreamTls::default()
    });
    assert!(call(&distrusting, &server, "a.test").await.0.is_err());

    let identified = build(UpstreamTls {
        client_cert: Some(ca.sign("proxy", &["proxy.test"])),
        ..trusting
    });
    let (_, facts) = call(&identified, &server, "a.test").await;
    assert!(facts.unwrap().client_subject.is_some());
}

#[tokio::test]
async fn an_upstream_gets_the_protocol_that_is_wished_for() {
    let ca = Authority::new();
    let config = listener(vec![ca.sign("a", &["a.test"])]);
    let new = ServerTls::build(&config, true, None).unwrap();
    let old = ServerTls::build(&config, false, None).unwrap();
    let config = UpstreamTls {
        ca: Some(ca.path("ca.pem")),
        ..UpstreamTls::default()
    };
    let client = ClientTls::build(&config, &(1..2), None).unwrap();
    for (server, of, expected) in [
        (&new, Wish::Http1, Some(Speaks::Http1)),
        (&new, Wish::Http2, Some(Speaks::Http2)),
        (&new, Wish::Either, Some(Speaks::Http2)),
        (&old, Wish::Http1, Some(Speaks::Http1)),
        (&old, Wish::Http2, None),
        (&old, Wish::Either, Some(Speaks::Http1)),
    ] {
        let (speaks, facts) = wish(&client, server, "a.test", of).await;
        assert_eq!(speaks.ok(), expected, "{of:?}");
        if let Ok(facts) = facts {
            assert_eq!(facts.http2, expected == Some(Speaks::Http2), "{of:?}");
        }
    }
}

/// What was agreed with a server under one wish is no reason to trust or to expect it under another.
#[tokio::test]
async fn sessions_stay_with_their_wish() {
    let ca = Authority::new();
    let config = listener(vec![ca.sign("a", &["a.test"])]);
    let server = ServerTls::build(&config, true, None).unwrap();
    let config = UpstreamTls {
        ca: Some(ca.path("ca.pem")),
        ..UpstreamTls::default()
    };
    let client = ClientTls::build(&config, &(1..2), None).unwrap();
    for of in [Wish::Http1, Wish::Http2, Wish::Either] {
        for resumed in [false, true] {
            let (speaks, facts) = wish(&client, &server, "a.test", of).await;
            speaks.unwrap();
            assert_eq!(facts.unwrap().resumed, resumed, "{of:?}");
        }
    }
}

#[test]
fn unchanged_upstream_tls_is_kept() {
    let ca = Authority::new();
    let config = UpstreamTls {
        ca: Some(ca.path("ca.pem")),
        ..UpstreamTls::default()
    };
    let first = ClientTls::build(&config, &(1..2), None).unwrap();
    let same = ClientTls::build(&config, &(1..2), Some(&first)).unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    ca.write("ca.pem", &Authority::new().pem);
    let changed = ClientTls::build(&config, &(1..2), Some(&first)).unwrap();
    assert!(!Arc::ptr_eq(&first, &changed));

    let bad = UpstreamTls {
        ca: Some(ca.path("missing.pem")),
        client_cert: None,
        server_name: Some(Located {
            value: "not a name".to_owned(),
            span: 3..4,
        }),
    };
    let faults = ClientTls::build(&bad, &(1..2), None).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert_eq!(faults[1].span, 3..4);
}

#[tokio::test]
async fn a_throw_away_certificate_serves() {
    let made = self_signed::self_signed(&["localhost", "127.0.0.1"]).unwrap();
    let ca = Authority::new();
    let source = CertSource {
        cert: ca.write("made.crt", &made.cert_pem),
        key: ca.write("made.key", &made.key_pem),
    };
    let server = ServerTls::build(&listener(vec![source]), true, None).unwrap();
    assert_eq!(server.certs()[0].names, ["localhost", "127.0.0.1"]);
    let client = ClientTls::build(
        &UpstreamTls {
            ca: Some(ca.path("made.crt")),
            ..UpstreamTls::default()
        },
        &(1..2),
        None,
    )
    .unwrap();
    call(&client, &server, "localhost").await.0.unwrap();
    call(&client, &server, "127.0.0.1").await.0.unwrap();
}
