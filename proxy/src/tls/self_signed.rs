//! A throw-away certificate for trying things out; nothing in production should want one.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct SelfSigned {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Makes a self-signed ECDSA P-256 certificate for host names and addresses, valid for 30 days.
///
/// Fails when a name is no ASCII host name.
pub fn self_signed(names: &[&str]) -> Result<SelfSigned, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "sluicegate throw-away certificate");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + VALIDITY).into();
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(SelfSigned {
        cert_pem: cert.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// How far a client's clock may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

const VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);
