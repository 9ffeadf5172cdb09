//! What a guest may ask of the host besides heads.
//!
//! `configure` may only log: it must be a pure function, for its memory may become what every
//! handshake begins with. So everything else here traps in it.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_plugin_services as services;
use wasmtime::format_err;

use super::State;
use super::generated::sluicegate::plugin::{clock, crypto, kv, logging, metrics, outbound, random};
use crate::metrics::MetricError;
use crate::outbound::{Asked, OutboundError};

impl State {
    /// Traps outside of the hooks: where an instance is set up nothing may wait.
    fn serving(&self, what: &'static str) -> wasmtime::Result<()> {
        if self.configuring {
            return Err(format_err!("`configure` calls `{what}`, but may only log"));
        }
        if self.facts.is_none() {
            return Err(format_err!("`{what}` is called outside of a hook"));
        }
        Ok(())
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, message: String, fields: Vec<(String, String)>) {
        let level = match level {
            logging::Level::Trace => tracing::Level::TRACE,
            logging::Level::Debug => tracing::Level::DEBUG,
            logging::Level::Info => tracing::Level::INFO,
            logging::Level::Warn => tracing::Level::WARN,
            logging::Level::Error => tracing::Level::ERROR,
        };
        if self.repeats {
            // It was said when the plugin was loaded.
            return;
        }
        let plugin = &self.plugin;
        plugin
            .log
            .write(level, &plugin.name, &self.route, &message, &fields);
    }
}

impl clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.serving("clock")?;
        let now = self.plugin.clock.since_epoch();
        Ok(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic_now(&mut self) -> wasmtime::Result<u64> {
        self.serving("clock")?;
        let now = self.plugin.clock.monotonic();
        Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl random::Host for State {
    fn bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        self.serving("random")?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(services::random::bytes(len.min(services::random::MAX_LEN))?)
    }
}

impl metrics::Host for State {
    fn count(
        &mut self,
        name: String,
        labels: metrics::Labels,
        by: u64,
    ) -> wasmtime::Result<Result<(), metrics::MetricError>> {
        self.serving("metrics")?;
        let counted = self.plugin.metrics.count(&name, &labels, by);
        Ok(counted.map_err(Into::into))
    }

    fn gauge(
        &mut self,
        name: String,
        labels: metrics::Labels,
        value: f64,
    ) -> wasmtime::Result<Result<(), metrics::MetricError>> {
        self.serving("metrics")?;
        let set = self.plugin.metrics.gauge(&name, &labels, value);
        Ok(set.map_err(Into::into))
    }

    fn observe(
        &mut self,
        name: String,
        labels: metrics::Labels,
        value: f64,
    ) -> wasmtime::Result<Result<(), metrics::MetricError>> {
        self.serving("metrics")?;
        let taken = self.plugin.metrics.observe(&name, &labels, value);
        Ok(taken.map_err(Into::into))
    }
}

impl crypto::Host for State {
    fn hash(
        &mut self,
        algorithm: crypto::HashAlgorithm,
        data: Vec<u8>,
    ) -> wasmtime::Result<Vec<u8>> {
        self.serving("crypto")?;
        Ok(services::crypto::hash(algorithm.into(), &data))
    }

    fn hmac(
        &mut self,
        algorithm: crypto::HashAlgorithm,
        key: Vec<u8>,
        data: Vec<u8>,
    ) -> wasmtime::Result<Vec<u8>> {
        self.serving("crypto")?;
        Ok(services::crypto::hmac(algorithm.into(), &key, &data))
    }

    fn verify_hmac(
        &mut self,
        algorithm: crypto::HashAlgorithm,
        key: Vec<u8>,
        data: Vec<u8>,
        tag: Vec<u8>,
    ) -> wasmtime::Result<bool> {
        self.serving("crypto")?;
        let algorithm = algorithm.into();
        Ok(services::crypto::verify_hmac(algorithm, &key, &data, &tag))
    }

    fn verify(
        &mut self,
        algorithm: crypto::SignatureAlgorithm,
        key: crypto::PublicKey,
        data: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, crypto::CryptoError>> {
        self.serving("crypto")?;
        let key = match &key {
            crypto::PublicKey::Rsa((modulus, exponent)) => {
                services::crypto::PublicKey::Rsa { modulus, exponent }
            }
            crypto::PublicKey::Ec((x, y)) => services::crypto::PublicKey::Ec { x, y },
            crypto::PublicKey::Ed25519(key) => services::crypto::PublicKey::Ed25519(key),
            crypto::PublicKey::Spki(der) => services::crypto::PublicKey::Spki(der),
        };
        let verified = services::crypto::verify(algorithm.into(), key, &data, &signature);
        Ok(verified.map_err(Into::into))
    }

    fn constant_time_equal(&mut self, a: Vec<u8>, b: Vec<u8>) -> wasmtime::Result<bool> {
        self.serving("crypto")?;
        Ok(services::crypto::constant_time_equal(&a, &b))
    }

    async fn verify_password(
        &mut self,
        hash: String,
        password: String,
    ) -> wasmtime::Result<Result<bool, crypto::CryptoError>> {
        self.serving("crypto")?;
        let verified = self.plugin.passwords.verify(&hash, &password).await;
        Ok(verified.map_err(Into::into))
    }
}

impl kv::Host for State {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, kv::KvError>> {
        self.serving("kv")?;
        Ok(self.plugin.kv.get(&key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl: Option<u64>,
    ) -> wasmtime::Result<Result<(), kv::KvError>> {
        self.serving("kv")?;
        let stored = self.plugin.kv.set(&key, &value, millis(ttl)).await;
        Ok(stored.map_err(Into::into))
    }

    async fn add(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl: Option<u64>,
    ) -> wasmtime::Result<Result<bool, kv::KvError>> {
        self.serving("kv")?;
        let stored = self.plugin.kv.add(&key, &value, millis(ttl)).await;
        Ok(stored.map_err(Into::into))
    }

    async fn compare_and_set(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl: Option<u64>,
    ) -> wasmtime::Result<Result<bool, kv::KvError>> {
        self.serving("kv")?;
        let kv = &self.plugin.kv;
        let stored = kv.compare_and_set(&key, expected.as_deref(), &value, millis(ttl));
        Ok(stored.await.map_err(Into::into))
    }

    async fn increment(
        &mut self,
        key: String,
        by: i64,
        ttl: Option<u64>,
    ) -> wasmtime::Result<Result<i64, kv::KvError>> {
        self.serving("kv")?;
        let sum = self.plugin.kv.increment(&key, by, millis(ttl)).await;
        Ok(sum.map_err(Into::into))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<bool, kv::KvError>> {
        self.serving("kv")?;
        Ok(self.plugin.kv.delete(&key).await.map_err(Into::into))
    }
}

impl outbound::Host for State {
    async fn send(
        &mut self,
        request: outbound::OutboundRequest,
    ) -> wasmtime::Result<Result<outbound::OutboundResponse, outbound::OutboundError>> {
        self.serving("outbound")?;
        Ok(self.send_outbound(request).await.map_err(Into::into))
    }
}

impl State {
    async fn send_outbound(
        &mut self,
        request: outbound::OutboundRequest,
    ) -> Result<outbound::OutboundResponse, OutboundError> {
        let mut allowed = self.plugin.grants.http.iter();
        let upstream = allowed
            .find(|allowed| ***allowed == *request.upstream)
            .ok_or(OutboundError::NotAllowed)?;
        let limits = &self.plugin.limits;
        let asked = request
            .timeout
            .map(|asked| Duration::from_millis(asked.into()));
        let timeout = asked.map_or(limits.http_timeout, |asked| asked.min(limits.http_timeout));
        let asked = Asked {
            upstream: Arc::clone(upstream),
            method: request.method,
            path: request.path,
            headers: request.headers,
            body: request.body,
            max_body: limits.http_body,
            timeout,
        };
        let way = self
            .facts
            .as_ref()
            .and_then(|facts| facts.outbound.as_ref())
            .ok_or_else(|| OutboundError::Unreachable("there are no upstreams here".to_owned()))?;
        let answer = way.send(asked.checked()?);
        // Whoever sends gives up in time himself, and knows then which server was silent.
        let answer = tokio::time::timeout(timeout + GRACE, answer)
            .await
            .unwrap_or(Err(OutboundError::Timeout))?;
        let headers = answer.headers.iter();
        let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().to_owned(), value.as_bytes().to_vec())
        };
        Ok(outbound::OutboundResponse {
            status: answer.status,
            headers: headers.map(pair).collect(),
            body: answer.body.into(),
        })
    }
}

/// How much later than promised a request to an upstream may be given up.
const GRACE: Duration = Duration::from_millis(250);

fn millis(ttl: Option<u64>) -> Option<Duration> {
    ttl.map(Duration::from_millis)
}

impl From<MetricError> for metrics::MetricError {
    fn from(error: MetricError) -> Self {
        match error {
            MetricError::InvalidName => metrics::MetricError::InvalidName,
            MetricError::InvalidLabel => metrics::MetricError::InvalidLabel,
            MetricError::Mismatch => metrics::MetricError::Mismatch,
            MetricError::TooMany => metrics::MetricError::TooMany,
        }
    }
}

impl From<services::kv::KvError> for kv::KvError {
    fn from(error: services::kv::KvError) -> Self {
        match error {
            services::kv::KvError::TooLarge => kv::KvError::TooLarge,
            services::kv::KvError::Full => kv::KvError::Full,
            services::kv::KvError::NotANumber => kv::KvError::NotANumber,
            services::kv::KvError::Unavailable => kv::KvError::Unavailable,
        }
    }
}

impl From<crypto::HashAlgorithm> for services::crypto::HashAlgorithm {
    fn from(algorithm: crypto::HashAlgorithm) -> Self {
        match algorithm {
            crypto::HashAlgorithm::Sha256 => Self::Sha256,
            crypto::HashAlgorithm::Sha384 => Self::Sha384,
            crypto::HashAlgorithm::Sha512 => Self::Sha512,
        }
    }
}

impl From<crypto::SignatureAlgorithm> for services::crypto::SignatureAlgorithm {
    fn from(algorithm: crypto::SignatureAlgorithm) -> Self {
        match algorithm {
            crypto::SignatureAlgorithm::Rs256 => Self::Rs256,
            crypto::SignatureAlgorithm::Rs384 => Self::Rs384,
            crypto::SignatureAlgorithm::Rs512 => Self::Rs512,
            crypto::SignatureAlgorithm::Ps256 => Self::Ps256,
            crypto::SignatureAlgorithm::Ps384 => Self::Ps384,
            crypto::SignatureAlgorithm::Ps512 => Self::Ps512,
            crypto::SignatureAlgorithm::Es256 => Self::Es256,
            crypto::SignatureAlgorithm::Es384 => Self::Es384,
            crypto::SignatureAlgorithm::Es512 => Self::Es512,
            crypto::SignatureAlgorithm::Eddsa => Self::EdDsa,
        }
    }
}

impl From<services::crypto::CryptoError> for crypto::CryptoError {
    fn from(error: services::crypto::CryptoError) -> Self {
        match error {
            services::crypto::CryptoError::InvalidKey => Self::InvalidKey,
            services::crypto::CryptoError::InvalidHash => Self::InvalidHash,
            services::crypto::CryptoError::TooLarge => Self::TooLarge,
            services::crypto::CryptoError::Busy => Self::Busy,
        }
    }
}

impl From<OutboundError> for outbound::OutboundError {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::NotAllowed => outbound::OutboundError::NotAllowed,
            OutboundError::Invalid(why) => outbound::OutboundError::Invalid(why),
            OutboundError::Unreachable(why) => outbound::OutboundError::Unreachable(why),
            OutboundError::Timeout => outbound::OutboundError::Timeout,
            OutboundError::TooLarge => outbound::OutboundError::TooLarge,
            OutboundError::Broken(why) => outbound::OutboundError::Broken(why),
        }
    }
}
