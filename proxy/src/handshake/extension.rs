//! Sec-WebSocket-Extensions (RFC 6455 §9.1) and the parameters of permessage-deflate (RFC 7692 §7).
//!
//! It parses offers and answers alike and refuses what does not follow the grammar. Of unknown
//! extensions it compares only the names: what their parameters mean is between the two ends.

use std::fmt;

use http::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};

use super::{is_token, trim};

/// One element of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    /// In the order sent; quoted values without their quotes.
    pub params: Vec<(String, Option<String>)>,
}

impl Extension {
    /// Every extension in the headers; `None` if one is malformed.
    pub(super) fn parse_all(headers: &HeaderMap) -> Option<Vec<Extension>> {
        let mut extensions = Vec::new();
        for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
            // A quoted value must be a token once unquoted, so that it never holds a separator.
            for element in line.to_str().ok()?.split(',').map(trim) {
                if element.is_empty() {
                    continue;
                }
                if extensions.len() == EXTENSIONS {
                    return None;
                }
                extensions.push(Extension::parse(element)?);
            }
        }
        Some(extensions)
    }

    /// Whether an upstream may choose this when the client offered that.
    pub(super) fn answers(&self, offered: &Extension) -> bool {
        if self.name != offered.name {
            return false;
        }
        if !self.is_deflate() {
            return true;
        }
        let Some(chosen) = DeflateParams::of_answer(self) else {
            return false;
        };
        let Some(offer) = DeflateParams::of_offer(offered) else {
            return false;
        };
        // Asked for, it must be granted (§7.1.1.1, §7.1.2.1); the client's window may be limited
        // only where the client said that it can (§7.1.2.2).
        let keeps_context = offer.server_no_context_takeover && !chosen.server_no_context_takeover;
        let server_window = match (offer.server_window, chosen.server_window) {
            (Some(offered), Some(chosen)) => chosen <= offered,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let client_window = match (offer.client_window, chosen.client_window) {
            (None, Some(_)) => false,
            (Some(Some(offered)), Some(Some(chosen))) => chosen <= offered,
            _ => true,
        };
        !keeps_context && server_window && client_window
    }

    /// Whether this is permessage-deflate.
    pub fn is_deflate(&self) -> bool {
        self.name == PERMESSAGE_DEFLATE
    }

    fn parse(element: &str) -> Option<Extension> {
        let mut pieces = element.split(';').map(trim);
        let name = pieces.next().filter(|name| is_token(name))?.to_owned();
        let params = pieces.map(parse_param).collect::<Option<Vec<_>>>()?;
        let extension = Extension { name, params };
        let fine = !extension.is_deflate() || DeflateParams::of_offer(&extension).is_some();
        fine.then_some(extension)
    }
}

/// As it stands in a field.
impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (name, value) in &self.params {
            write!(f, "; {name}")?;
            if let Some(value) = value {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}

fn parse_param(piece: &str) -> Option<(String, Option<String>)> {
    let (name, value) = match piece.split_once('=') {
        Some((name, value)) => (trim(name), Some(trim(value))),
        None => (piece, None),
    };
    let value = match value {
        None => None,
        Some(value) => {
            let unquoted = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or(value);
            Some(Some(unquoted).filter(|value| is_token(value))?.to_owned())
        }
    };
    is_token(name).then(|| (name.to_owned(), value))
}

/// The four parameters that RFC 7692 knows; any other one, or one twice, is a fault.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeflateParams {
    pub(super) server_no_context_takeover: bool,
    pub(super) client_no_context_takeover: bool,
    pub(super) server_window: Option<u8>,
    /// An offer may leave the number out.
    pub(super) client_window: Option<Option<u8>>,
}

impl DeflateParams {
    pub(super) fn of_offer(extension: &Extension) -> Option<DeflateParams> {
        let mut params = DeflateParams::default();
        for (name, value) in &extension.params {
            let first = match (name.as_str(), value) {
                (SERVER_NO_CONTEXT_TAKEOVER, None) => {
                    !std::mem::replace(&mut params.server_no_context_takeover, true)
                }
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => {
                    !std::mem::replace(&mut params.client_no_context_takeover, true)
                }
                (SERVER_MAX_WINDOW_BITS, Some(bits)) => {
                    params.server_window.replace(window_bits(bits)?).is_none()
                }
                (CLIENT_MAX_WINDOW_BITS, None) => params.client_window.replace(None).is_none(),
                (CLIENT_MAX_WINDOW_BITS, Some(bits)) => params
                    .client_window
                    .replace(Some(window_bits(bits)?))
                    .is_none(),
                _ => false,
            };
            if !first {
                return None;
            }
        }
        Some(params)
    }

    pub(super) fn of_answer(extension: &Extension) -> Option<DeflateParams> {
        DeflateParams::of_offer(extension).filter(|params| params.client_window != Some(None))
    }

    /// The extension with these.
    pub(super) fn extension(&self) -> Extension {
        let flag = |set: bool, name| set.then_some((name, None));
        let bits = |bits: u8| bits.to_string();
        let params = [
            flag(self.server_no_context_takeover, SERVER_NO_CONTEXT_TAKEOVER),
            flag(self.client_no_context_takeover, CLIENT_NO_CONTEXT_TAKEOVER),
            self.server_window
                .map(|window| (SERVER_MAX_WINDOW_BITS, Some(bits(window)))),
            self.client_window
                .map(|window| (CLIENT_MAX_WINDOW_BITS, window.map(bits))),
        ];
        let params = params.into_iter().flatten();
        Extension {
            name: PERMESSAGE_DEFLATE.to_owned(),
            params: params
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }
}

/// 8 to 15, without leading zeros.
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" | "9" => text.parse().ok(),
        "10" | "11" | "12" | "13" | "14" | "15" => text.parse().ok(),
        _ => None,
    }
}

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";
/// More than any client offers.
const EXTENSIONS: usize = 32;
