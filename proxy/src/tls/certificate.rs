//! PEM files in; parsed certificates, keys and names out.
//!
//! Every refusal is a [`Fault`] that points at the path in the configuration. Expiry is no reason
//! to refuse: an expired certificate still serves the clients that accept it, so it is a warning.
//! Names come from the subject alternative names only (RFC 9525); the common name is ignored.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::{Fault, provider};
use crate::config::model::{CertSource, Located};

/// What a banner, a metric or a warning says of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    pub path: PathBuf,
    /// Its DNS names and addresses in lower case, wildcards as `*.example.com`; may be empty.
    pub names: Vec<String>,
    /// End of its validity, seconds since the epoch.
    pub not_after: i64,
}

impl CertInfo {
    /// Whole days of validity left at `now`; negative once it has expired.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        (self.not_after - unix_seconds(now)).div_euclid(SECONDS_A_DAY)
    }

    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after < unix_seconds(now)
    }
}

/// A chain and its key, read, parsed and found to match.
pub(super) fn load_certified_key(
    source: &CertSource,
    faults: &mut Vec<Fault>,
) -> Option<(CertifiedKey, CertInfo)> {
    let chain = load_certificates(&source.cert, faults);
    let key = load_key(&source.key, faults);
    let (chain, key) = (chain?, key?);
    let info = match describe(&source.cert.value, &chain[0]) {
        Ok(info) => info,
        Err(reason) => {
            let path = source.cert.value.display();
            let message = format!("`{path}` is not a valid X.509 certificate: {reason}");
            faults.push(Fault::new(&source.cert.span, message));
            return None;
        }
    };
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(certified) => Some((certified, info)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!(
                "the key `{}` does not belong to the certificate `{}`",
                source.key.value.display(),
                source.cert.value.display(),
            );
            let hint = "the server's certificate must come first in a chain file";
            faults.push(Fault::new(&source.key.span, message).hint(hint));
            None
        }
        Err(error) => {
            let path = source.key.value.display();
            let message = format!("the key `{path}` cannot be used: {error}");
            let hint = "use an ECDSA (P-256, P-384), Ed25519 or RSA (2048 bits or more) key";
            faults.push(Fault::new(&source.key.span, message).hint(hint));
            None
        }
    }
}

/// The certificates of a PEM file in file order; at least one.
pub(super) fn load_certificates(
    path: &Located<PathBuf>,
    faults: &mut Vec<Fault>,
) -> Option<Vec<CertificateDer<'static>>> {
    let pem = read(path, faults)?;
    let shown = path.value.display();
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            let fault = Fault::new(&path.span, format!("no certificate in `{shown}`"));
            faults.push(fault.hint("it must hold a PEM block `-----BEGIN CERTIFICATE-----`"));
            None
        }
        Ok(certificates) => Some(certificates),
        Err(error) => {
            let message = format!("`{shown}` is not valid PEM: {error}");
            faults.push(Fault::new(&path.span, message));
            None
        }
    }
}

/// The authorities of a PEM file as trust anchors; at least one.
pub(super) fn load_authorities(
    path: &Located<PathBuf>,
    faults: &mut Vec<Fault>,
) -> Option<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let certificates = load_certificates(path, faults)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        if let Err(error) = roots.add(certificate.clone()) {
            let shown = path.value.display();
            let message = format!("an authority in `{shown}` cannot be used: {error}");
            faults.push(Fault::new(&path.span, message));
            return None;
        }
    }
    Some((roots, certificates))
}

/// The subject of a DER certificate as RFC 4514 text in printable ASCII.
///
/// Everything else (control characters, UTF-8) is written as `\XX` pairs, so the text can be
/// a header value or a log field as it is. `None`: the certificate does not parse.
pub(super) fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(distinguished_name(certificate.subject()))
}

fn load_key(path: &Located<PathBuf>, faults: &mut Vec<Fault>) -> Option<PrivateKeyDer<'static>> {
    let pem = read(path, faults)?;
    let shown = path.value.display();
    if is_encrypted(&pem) {
        let message = format!("the key `{shown}` is encrypted");
        let hint = format!("decrypt it: `openssl pkey -in {shown} -out plain.key`");
        faults.push(Fault::new(&path.span, message).hint(hint));
        return None;
    }
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Some(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            let fault = Fault::new(&path.span, format!("no private key in `{shown}`"));
            faults.push(fault.hint("it must hold a PEM block `-----BEGIN PRIVATE KEY-----`"));
            None
        }
        Err(error) => {
            let message = format!("`{shown}` is not valid PEM: {error}");
            faults.push(Fault::new(&path.span, message));
            None
        }
    }
}

fn read(path: &Located<PathBuf>, faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    match read_bounded(&path.value) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let message = format!("cannot read `{}`: {error}", path.value.display());
            faults.push(Fault::new(&path.span, message));
            None
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_PEM_SIZE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PEM_SIZE {
        return Err(io::Error::other(format!(
            "larger than {MAX_PEM_SIZE} bytes"
        )));
    }
    Ok(bytes)
}

/// PKCS #8 says so in the label, the older OpenSSL form in a header line.
fn is_encrypted(pem: &[u8]) -> bool {
    pem.split(|&byte| byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || (line.starts_with(b"Proc-Type:") && line.trim_ascii().ends_with(b"ENCRYPTED"))
    })
}

fn describe(path: &Path, der: &[u8]) -> Result<CertInfo, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .filter_map(name)
            .collect(),
        Ok(None) => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    Ok(CertInfo {
        path: path.to_owned(),
        names,
        not_after: certificate.validity().not_after.timestamp(),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match *name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(octets) => {
            let address = if let Ok(v4) = <[u8; 4]>::try_from(octets) {
                IpAddr::V4(Ipv4Addr::from(v4))
            } else {
                IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))
            };
            Some(address.to_string())
        }
        _ => None,
    }
}

/// RFC 4514, section 2: the last RDN first, joined by commas; parts of one RDN joined by `+`.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut rdns: Vec<_> = name.iter_rdn().collect();
    rdns.reverse();
    let mut text = String::new();
    for (index, rdn) in rdns.into_iter().enumerate() {
        for (part, attribute) in rdn.iter().enumerate() {
            match (index, part) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let short = ATTRIBUTE_NAMES.iter().find(|(id, _)| *id == oid);
    text.push_str(short.map_or(oid.as_str(), |(_, short)| short));
    text.push('=');
    match attribute.as_str() {
        // A type without a short name takes the hex form (section 2.4).
        Ok(value) if short.is_some() => push_escaped(text, value),
        _ => {
            text.push('#');
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            for byte in der {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            b'#' if index == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

/// The short names of RFC 4514, section 3, and the e-mail address that many authorities add.
const ATTRIBUTE_NAMES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// Largest PEM file that is read: a system's whole CA bundle has a quarter of a megabyte.
const MAX_PEM_SIZE: u64 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_as_rfc_4514_says() {
        fn check(value: &str, expected: &str) {
            let mut text = String::new();
            push_escaped(&mut text, value);
            assert_eq!(text, expected, "{value:?}");
        }
        check("plain name", "plain name");
        check("", "");
        check(" ", "\\ ");
        check(" a ", "\\ a\\ ");
        check("#1 #2", "\\#1 #2");
        check("a,b+c;d", "a\\,b\\+c\\;d");
        check("\"<\\>\"", "\\\"\\<\\\\\\>\\\"");
        check("a\r\nX: y\0", "a\\0D\\0AX: y\\00");
        check("Müller", "M\\C3\\BCller");
    }

    #[test]
    fn encrypted_keys_are_recognised() {
        fn check(pem: &str, expected: bool) {
            assert_eq!(is_encrypted(pem.as_bytes()), expected, "{pem}");
        }
        check(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n-----END ENCRYPTED PRIVATE KEY-----\n",
            true,
        );
        check(
            "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: x\r\n",
            true,
        );
        check("-----BEGIN PRIVATE KEY-----\nMIIF\n", false);
    }

    #[test]
    fn days_left_are_whole_and_turn_negative() {
        fn check(seconds_left: i64, days: i64, expired: bool) {
            let now = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            let info = CertInfo {
                path: PathBuf::new(),
                names: Vec::new(),
                not_after: 1_000_000_000 + seconds_left,
            };
            assert_eq!(info.days_left(now), days);
            assert_eq!(info.has_expired(now), expired);
        }
        check(90 * SECONDS_A_DAY, 90, false);
        check(SECONDS_A_DAY - 1, 0, false);
        check(0, 0, false);
        check(-1, -1, true);
    }
}
