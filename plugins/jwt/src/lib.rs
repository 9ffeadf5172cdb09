//! Lets in who holds a JSON Web Token, and tells the upstream what it claims.
//!
//! The way of a token: found (`source`), taken apart strictly (`token`), its signature checked with a key
//! that fits its algorithm (`key`; fetched ones: `remote`), its claims judged (`claims`). Only then is
//! anything believed, and the token itself does not go further. The tunnel ends when the token does.
//!
//! RFC 7515 (JWS), RFC 7517 (keys), RFC 7518 (algorithms), RFC 7519 (JWT), RFC 6750 (refusals), and the
//! advice of RFC 8725.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::SystemTime;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Request, Service, Verdict, clock, export, metrics,
};

use crate::claims::Rules;
use crate::key::Key;
use crate::refusal::{Refused, Why, excerpt};
use crate::remote::Remote;
use crate::source::Sources;
use crate::token::{Object, Token};

mod claims;
mod config;
mod key;
mod refusal;
mod remote;
mod source;
mod token;

pub use config::Config;

pub struct Jwt {
    config: Config,
    sources: Sources,
    keys: Vec<Key>,
    remote: Option<Remote>,
    rules: Rules,
    /// None: any. As [`token::media_type`] writes them.
    types: BTreeSet<String>,
    /// As a challenge names them.
    scopes: String,
}

impl Filter for Jwt {
    type Config = Config;
    // Keys that stand in the configuration need neither.
    const OPTIONAL: &'static [Service] = &[Service::Kv, Service::Outbound];

    fn configure(config: Config) -> Result<Self, ConfigError> {
        config.check_names()?;
        let rules = config.rules()?;
        let scopes: Vec<&str> = rules.scopes.iter().map(String::as_str).collect();
        Ok(Jwt {
            sources: config.sources()?,
            keys: config.static_keys()?,
            remote: config.remote()?,
            types: config
                .types
                .to_set()
                .iter()
                .map(|one| token::media_type(one))
                .collect(),
            scopes: scopes.join(" "),
            rules,
            config,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        match self.admit(req) {
            Ok(()) => Verdict::Continue,
            Err(refused) => {
                let why = refused.why.name();
                metrics::count("refused", &[("why", why)], 1).ok();
                let level = match refused.why {
                    Why::Missing => Level::Info,
                    _ => Level::Warn,
                };
                let fields = [("why", why), ("detail", &*refused.detail)];
                log::event(level, "token refused", &fields);
                refused.reply(&self.config.realm, &self.scopes).into()
            }
        }
    }
}

export!(Jwt);

impl Jwt {
    /// The whole way of a token.
    fn admit(&self, req: &mut Request) -> Result<(), Refused> {
        let text = self.sources.find(req)?;
        let text = text.ok_or_else(|| Refused::new(Why::Missing, "no token"))?;
        // Before anything can refuse it: what is left in the query may end in the access log.
        if self.config.strip {
            self.sources
                .strip(req)
                .map_err(|error| cannot_edit(&error))?;
        }
        let token = Token::parse(&text)?;
        self.check_type(&token)?;
        self.check_signature(&token)?;
        let claims = token.payload()?;
        let now = clock::now();
        let expires = self.rules.check(&claims, now)?;
        self.pass_on(req, &claims)?;
        if let Some(expires) = expires.filter(|_| self.config.expire) {
            req.expire_at(self.end_of_session(expires, now));
        }
        Ok(())
    }

    /// A token of another kind by the same issuer, such as one that tells a page who its user is, opens
    /// nothing (RFC 8725, section 3.11).
    fn check_type(&self, token: &Token<'_>) -> Result<(), Refused> {
        let typ = token.typ.as_deref();
        if self.types.is_empty() || typ.is_some_and(|typ| self.types.contains(typ)) {
            return Ok(());
        }
        let detail = typ.map_or("no `typ`".to_owned(), |typ| {
            format!("`typ` is `{}`", excerpt(typ))
        });
        Err(Refused::new(Why::Type, detail))
    }

    fn check_signature(&self, token: &Token<'_>) -> Result<(), Refused> {
        let allowed = self.config.algorithms.as_ref();
        if allowed.is_some_and(|allowed| !allowed.contains(&token.algorithm)) {
            let name = token.algorithm.name();
            return Err(Refused::new(
                Why::Algorithm,
                format!("`{name}` is not among `algorithms`"),
            ));
        }
        let mut tried = false;
        let mut is_signed_by_one_of = |keys: &[Key]| {
            keys.iter().any(|key| {
                tried |= key.may_have_signed(token);
                // A key of the right length that is no point on its curve has signed nothing.
                key.has_signed(token).unwrap_or(false)
            })
        };
        if is_signed_by_one_of(&self.keys) {
            return Ok(());
        }
        if let Some(remote) = &self.remote
            && is_signed_by_one_of(&remote.keys(token)?)
        {
            return Ok(());
        }
        if tried {
            return Err(Refused::new(Why::Signature, "the signature is wrong"));
        }
        let algorithm = token.algorithm.name();
        let detail = match &token.kid {
            None => format!("no key for `{algorithm}`"),
            Some(kid) => format!("no key `{}` for `{algorithm}`", excerpt(kid)),
        };
        Err(Refused::new(Why::Key, detail))
    }

    /// Tells the upstream, and the log, who this is.
    fn pass_on(&self, req: &mut Request, claims: &Object) -> Result<(), Refused> {
        for (claim, header) in &self.config.claims {
            // Whatever the client says of itself goes, also where the token says nothing.
            req.remove_header(header)
                .map_err(|error| cannot_edit(&error))?;
            if let Some(texts) = claims.texts(claim)? {
                req.set_header(header, texts.join(","))
                    .map_err(|error| Refused::new(Why::Claim, format!("`{claim}`: {error}")))?;
            }
        }
        for (claim, label) in &self.config.labels {
            if let Some(texts) = claims.texts(claim)? {
                req.set_label(label, &texts.join(","))
                    .map_err(|error| Refused::new(Why::Claim, format!("`{claim}`: {error}")))?;
            }
        }
        Ok(())
    }

    /// The moment it expires; one that has expired already, but within the leeway, has as much left.
    fn end_of_session(&self, expires: SystemTime, now: SystemTime) -> SystemTime {
        if expires > now {
            expires
        } else {
            expires + self.rules.leeway
        }
    }
}

fn cannot_edit(error: &EditError) -> Refused {
    Refused::new(Why::Request, error.to_string())
}

#[cfg(test)]
mod tests;
