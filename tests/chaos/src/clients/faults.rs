//! The faults that a client can run into, and what it must see of each.

/// A fault and its only outcomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) ask: Ask,
    pub(crate) sees: Sees,
    /// What `requests_rejected_total` calls it, if only faults that say so are called that.
    pub(crate) reason: Option<&'static str>,
}

/// What the client does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// A request for this path on this route.
    Get {
        route: &'static str,
        path: &'static str,
    },
    /// As `Get`, and the plugin fails so.
    Plugin {
        route: &'static str,
        path: &'static str,
        plugin: &'static str,
        result: &'static str,
        /// The request is a handshake.
        websocket: bool,
    },
    /// Bytes that are no request.
    Raw(&'static str),
    /// A handshake for this path on the faulty upstream's route.
    Handshake(&'static str),
    /// A WebSocket on the faulty upstream's route; after a message the upstream fails so.
    Tunnel(&'static str),
    /// A WebSocket with a plugin on its way, to which this is said.
    Talk(&'static str),
    /// As `Talk`, with a frame that nobody may send.
    BadFrame,
}

/// What the client sees.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sees {
    Status(u16),
    /// A 200 whose body does not end as it should.
    Cut,
    /// A 200 with this body.
    Whole(&'static str),
    /// One of these; a body may be cut.
    OneOf(&'static [u16]),
    /// A Close with this code; `None`: an end without one.
    Close(Option<u16>),
}

impl Fault {
    /// Why the proxy says that it answers with this status.
    pub(crate) fn reason_of(&self, status: u16) -> Option<&'static str> {
        let told = matches!(self.sees, Sees::Status(told) if told == status);
        self.reason.filter(|_| told)
    }
}

/// An opening handshake with these field lines more, each with its line end.
pub(crate) fn open_handshake(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// Reasons that only faults which name them lead to.
pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
    FAULTS.iter().filter_map(|fault| fault.reason)
}

const fn upstream(name: &'static str, path: &'static str, sees: Sees) -> Fault {
    let route = "faulty";
    Fault {
        name,
        ask: Ask::Get { route, path },
        sees,
        reason: None,
    }
}

/// What an upstream says that breaks a rule of HTTP.
const fn wrong(name: &'static str, path: &'static str, reason: &'static str) -> Fault {
    Fault {
        reason: Some(reason),
        ..upstream(name, path, Sees::Status(502))
    }
}

const fn comes_and_goes(name: &'static str, route: &'static str, path: &'static str) -> Fault {
    Fault {
        name,
        ask: Ask::Get { route, path },
        sees: Sees::OneOf(&[200, 502, 503, 504]),
        reason: None,
    }
}

const fn plugin(
    name: &'static str,
    route: &'static str,
    path: &'static str,
    failure: (&'static str, &'static str),
    status: u16,
) -> Fault {
    let (plugin, result) = failure;
    Fault {
        name,
        ask: Ask::Plugin {
            route,
            path,
            plugin,
            result,
            websocket: false,
        },
        sees: Sees::Status(status),
        reason: Some(result),
    }
}

/// The same in an opening handshake.
const fn at_handshake(
    name: &'static str,
    route: &'static str,
    path: &'static str,
    failure: (&'static str, &'static str),
) -> Fault {
    Fault {
        ask: Ask::Plugin {
            route,
            path,
            plugin: failure.0,
            result: failure.1,
            websocket: true,
        },
        ..plugin(name, route, path, failure, 500)
    }
}

const fn raw(name: &'static str, bytes: &'static str, status: u16, reason: &'static str) -> Fault {
    Fault {
        name,
        ask: Ask::Raw(bytes),
        sees: Sees::Status(status),
        reason: Some(reason),
    }
}

const fn handshake(
    name: &'static str,
    path: &'static str,
    status: u16,
    reason: Option<&'static str>,
) -> Fault {
    Fault {
        name,
        ask: Ask::Handshake(path),
        sees: Sees::Status(status),
        reason,
    }
}

const fn tunnel(name: &'static str, how: &'static str, code: Option<u16>) -> Fault {
    Fault {
        name,
        ask: Ask::Tunnel(how),
        sees: Sees::Close(code),
        reason: None,
    }
}

const fn talk(name: &'static str, word: &'static str, code: u16) -> Fault {
    Fault {
        name,
        ask: Ask::Talk(word),
        sees: Sees::Close(Some(code)),
        reason: None,
    }
}

/// All of them.
pub(crate) const FAULTS: [Fault; 42] = [
    upstream("upstream resets", "/faulty/reset", Sees::Status(502)),
    upstream("upstream closes", "/faulty/close", Sees::Status(502)),
    upstream("upstream babbles", "/faulty/garbage", Sees::Status(502)),
    upstream(
        "endless interim answers",
        "/faulty/interim",
        Sees::Status(502),
    ),
    upstream("giant head", "/faulty/big-head", Sees::Status(502)),
    wrong("two lengths", "/faulty/two-lengths", "upstream_framing"),
    wrong("unasked 101", "/faulty/unasked-101", "unasked_upgrade"),
    upstream("upstream stalls", "/faulty/stall", Sees::Status(504)),
    upstream("body is cut", "/faulty/cut-length", Sees::Cut),
    upstream("body is reset", "/faulty/reset-length", Sees::Cut),
    upstream("body stalls", "/faulty/stall-length", Sees::Cut),
    upstream("chunk is cut", "/faulty/cut-chunk", Sees::Cut),
    upstream("bad chunk", "/faulty/bad-chunk", Sees::Cut),
    upstream("no last chunk", "/faulty/no-last-chunk", Sees::Cut),
    upstream("too much body", "/faulty/too-much", Sees::Whole("so m")),
    comes_and_goes("one of two vanishes", "vanishing", "/vanishing"),
    comes_and_goes("the only one vanishes", "gone", "/gone"),
    plugin("plugin traps", "trap", "/trap", ("trapping", "trap"), 500),
    plugin(
        "plugin traps, passed",
        "trap-passed",
        "/passed",
        ("trapping", "trap"),
        200,
    ),
    plugin("plugin loops", "loop", "/loop", ("looping", "timeout"), 500),
    plugin(
        "plugin swells",
        "swell",
        "/swell",
        ("swelling", "memory"),
        500,
    ),
    at_handshake(
        "plugin traps at a handshake",
        "trap",
        "/trap",
        ("trapping", "trap"),
    ),
    at_handshake(
        "plugin loops at a handshake",
        "loop",
        "/loop",
        ("looping", "timeout"),
    ),
    at_handshake(
        "plugin swells at a handshake",
        "swell",
        "/swell",
        ("swelling", "memory"),
    ),
    raw("no Host", "GET / HTTP/1.1\r\n\r\n", 400, "no_host"),
    raw(
        "bare LF",
        "GET / HTTP/1.1\nHost: localhost\n\n",
        400,
        "bare_lf",
    ),
    raw(
        "length and encoding",
        LENGTH_AND_ENCODING,
        400,
        "length_and_encoding",
    ),
    raw(
        "no method",
        "GE T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "bad_version",
    ),
    raw(
        "unknown route",
        "GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        404,
        "no_route",
    ),
    handshake(
        "handshake refused",
        "/faulty/ws-refused",
        crate::ledger::UPSTREAMS_OWN,
        None,
    ),
    handshake(
        "wrong accept",
        "/faulty/ws-wrong-accept",
        502,
        Some("upstream_accept"),
    ),
    handshake("handshake reset", "/faulty/reset", 502, None),
    handshake("handshake stalls", "/faulty/stall", 504, None),
    tunnel("server resets", "reset", None),
    tunnel("server ends", "end", None),
    tunnel("server ends in a frame", "half-frame", None),
    tunnel("server reads no more", "stall", None),
    tunnel("server is overloaded", "overload", Some(1013)),
    talk("conversation traps", "trap", 1011),
    talk("conversation loops", "loop", 1011),
    talk("conversation swells", "memory", 1011),
    Fault {
        name: "bad frame",
        ask: Ask::BadFrame,
        sees: Sees::Close(Some(1002)),
        reason: None,
    },
];

const LENGTH_AND_ENCODING: &str = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\
     Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
