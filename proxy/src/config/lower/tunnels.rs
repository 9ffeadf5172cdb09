//! What a route does with its tunnels, where its keys do not contradict each other.
//!
//! It always makes rules: a key with a mistake has its default, as nothing is served from such a file.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Context, number, size};
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{
    Allowance, Compression, OnlyKind, Over, Rate, SideRules, Span, TunnelRules,
};
use crate::config::reader::{Field, Read, Text};
use crate::config::schema;
use crate::config::values::ByteSize;

/// A key that was given, and where its value stands.
type Given<'a> = (&'static str, &'a Span);

/// Those of the named keys that were given.
macro_rules! given {
    ($table:ident: $($key:ident),* $(,)?) => {
        [$($table.$key.given().map(|given| (stringify!($key), &given.span))),*]
            .into_iter()
            .flatten()
            .collect::<Vec<Given<'_>>>()
    };
}

/// The keys that a side has of its own.
struct Own<'a> {
    message_size: &'a Field<Text<ByteSize>>,
    rate: &'a Field<schema::Rate>,
    idle_timeout: &'a Field<Text<Duration>>,
    ping_interval: &'a Field<Text<Duration>>,
}

/// The rules of `route`; messages are as large as `message_size` where it does not say.
pub(super) fn lower(
    route: &schema::Route,
    message_size: Option<u64>,
    cx: &mut Context<'_>,
) -> TunnelRules {
    refuse_without_tunnels(route, cx);
    refuse_without_frames(route, cx);
    refuse_without_effect(route, cx);
    warn_of_neither(route, cx);
    let default = TunnelRules::default();
    let follow = route.follow.value().copied().unwrap_or(default.follow);
    let message_size = message_size.filter(|_| follow);
    let client = Own {
        message_size: &route.client_message_size,
        rate: &route.client_rate,
        idle_timeout: &route.client_idle_timeout,
        ping_interval: &route.client_ping_interval,
    };
    let client = lower_side(&client, route, message_size, cx);
    let server = Own {
        message_size: &route.server_message_size,
        rate: &route.server_rate,
        idle_timeout: &route.server_idle_timeout,
        ping_interval: &route.server_ping_interval,
    };
    let server = lower_side(&server, route, message_size, cx);
    TunnelRules {
        follow,
        compression: route
            .compression
            .value()
            .copied()
            .unwrap_or(default.compression),
        compression_level: small(&route.compression_level, default.compression_level),
        compression_window: small(&route.compression_window, default.compression_window),
        pong_timeout: pong_timeout(route, [&client, &server], default.pong_timeout, cx),
        client,
        server,
        message_frames: NonZeroU32::new(number(&route.message_frames, 0)),
        only: only(route, cx),
        buffer: buffer(&route.tunnel_buffer, default.buffer, cx),
        max_lifetime: route.max_lifetime.value().copied(),
        lifetime_jitter: f64::from(number(&route.lifetime_jitter, JITTER_PERCENT)) / 100.0,
    }
}

fn refuse_without_tunnels(route: &schema::Route, cx: &mut Context<'_>) {
    // A route that does nothing at all is told so.
    if !route.to.is_absent() || (route.respond.is_absent() && route.redirect.is_absent()) {
        return;
    }
    let keys = given!(
        route: follow,
        compression,
        compression_level,
        compression_window,
        message_size,
        client_message_size,
        server_message_size,
        message_frames,
        client_rate,
        server_rate,
        text_only,
        binary_only,
        client_idle_timeout,
        server_idle_timeout,
        max_lifetime,
        lifetime_jitter,
        ping_interval,
        client_ping_interval,
        server_ping_interval,
        pong_timeout,
        tunnel_buffer,
    );
    for (key, span) in keys {
        let message = format!("`{key}` changes nothing on a route without `to`");
        cx.report(Diagnostic::error(span.clone(), message));
    }
}

fn refuse_without_frames(route: &schema::Route, cx: &mut Context<'_>) {
    let Some(follow) = route.follow.given().filter(|follow| !follow.value) else {
        return;
    };
    let mut keys = given!(
        route: compression_level,
        compression_window,
        message_size,
        client_message_size,
        server_message_size,
        message_frames,
        client_rate,
        server_rate,
        ping_interval,
        client_ping_interval,
        server_ping_interval,
        pong_timeout,
        tunnel_buffer,
    );
    if route.compression.value() == Some(&Compression::Terminate) {
        keys.extend(given!(route: compression));
    }
    if route.text_only.value() == Some(&true) {
        keys.extend(given!(route: text_only));
    }
    if route.binary_only.value() == Some(&true) {
        keys.extend(given!(route: binary_only));
    }
    for (key, span) in keys {
        let message = format!("`{key}` cannot be kept where frames are not followed");
        let hint = format!("leave out one of `follow` and `{key}`");
        let mistake = Diagnostic::error(span.clone(), message).hint(hint);
        cx.report(mistake.related(follow.span.clone(), "bytes are copied"));
    }
}

/// Keys that say something about another one which is not there.
fn refuse_without_effect(route: &schema::Route, cx: &mut Context<'_>) {
    if let Some(compression) = route.compression.given()
        && compression.value == Compression::Off
    {
        for (key, span) in given!(route: compression_level, compression_window) {
            let message = format!("`{key}` changes nothing where nothing is compressed");
            let mistake = Diagnostic::error(span.clone(), message);
            cx.report(mistake.related(compression.span.clone(), "switched off here"));
        }
    }
    if let Some(jitter) = route.lifetime_jitter.given()
        && route.max_lifetime.is_absent()
    {
        let message = "`lifetime_jitter` changes nothing without `max_lifetime`";
        cx.report(Diagnostic::error(jitter.span.clone(), message));
    }
    if let Some(timeout) = route.pong_timeout.given()
        && route.ping_interval.is_absent()
        && route.client_ping_interval.is_absent()
        && route.server_ping_interval.is_absent()
    {
        let message = "`pong_timeout` changes nothing without `ping_interval`";
        cx.report(Diagnostic::error(timeout.span.clone(), message));
    }
}

/// A key for both sides beside one for each.
fn warn_of_neither(route: &schema::Route, cx: &mut Context<'_>) {
    let both = [
        (
            given!(route: message_size),
            given!(route: client_message_size, server_message_size),
        ),
        (
            given!(route: ping_interval),
            given!(route: client_ping_interval, server_ping_interval),
        ),
    ];
    for (both, each) in both {
        if let ([(key, both)], [(_, client), _]) = (both.as_slice(), each.as_slice()) {
            let message = format!("`{key}` counts for neither side");
            let warning = Diagnostic::warning((*both).clone(), message);
            cx.report(warning.related((*client).clone(), "each has its own"));
        }
    }
}

fn lower_side(
    own: &Own<'_>,
    route: &schema::Route,
    message_size: Option<u64>,
    cx: &mut Context<'_>,
) -> SideRules {
    let size = own.message_size.value().or(route.message_size.value());
    let ping_interval = own.ping_interval.value().or(route.ping_interval.value());
    SideRules {
        message_size: size.map(|size| size.0).or(message_size),
        rate: lower_rate(own.rate, cx),
        idle_timeout: own.idle_timeout.value().copied(),
        ping_interval: ping_interval.copied(),
    }
}

fn lower_rate(field: &Field<schema::Rate>, cx: &mut Context<'_>) -> Option<Rate> {
    let rate = field.given()?;
    let written = &rate.value;
    if written.messages.is_absent() && written.bytes.is_absent() {
        let hint = "add `messages`, `bytes` or both, each for a second".to_owned();
        let mistake = Diagnostic::error(rate.span.clone(), "this rate limits nothing").hint(hint);
        cx.report(mistake);
        return None;
    }
    let (messages, burst) = (&written.messages, &written.messages_burst);
    let messages = allowance("messages", messages, burst, |number| *number, cx);
    let (bytes, burst) = (&written.bytes, &written.bytes_burst);
    let bytes = allowance("bytes", bytes, burst, |size| size.0, cx);
    Some(Rate {
        messages,
        bytes,
        over: written.over.value().copied().unwrap_or(Over::Close),
    })
}

fn allowance<T: Read>(
    key: &str,
    per_second: &Field<T>,
    burst: &Field<T>,
    number: impl Fn(&T::Out) -> u64,
    cx: &mut Context<'_>,
) -> Option<Allowance> {
    if let Some(burst) = burst.given()
        && per_second.is_absent()
    {
        let message = format!("`{key}_burst` changes nothing without `{key}`");
        cx.report(Diagnostic::error(burst.span.clone(), message));
    }
    let given = per_second.given()?;
    let per_second = number(&given.value);
    let burst = burst.given().map_or(per_second, |burst| {
        let at_once = number(&burst.value);
        if at_once < per_second {
            let message = "a burst is at least what a second allows";
            let hint = format!("leave out `{key}_burst` for just that");
            let mistake = Diagnostic::error(burst.span.clone(), message).hint(hint);
            cx.report(mistake.related(given.span.clone(), "a second"));
        }
        at_once
    });
    Some(Allowance { per_second, burst })
}

fn only(route: &schema::Route, cx: &mut Context<'_>) -> Option<OnlyKind> {
    let said = |field: &Field<bool>| field.given().filter(|given| given.value).cloned();
    match (said(&route.text_only), said(&route.binary_only)) {
        (Some(text), Some(binary)) => {
            let message = "neither text nor binary messages could pass";
            let hint = "keep one of `text_only` and `binary_only`".to_owned();
            let mistake = Diagnostic::error(binary.span, message).hint(hint);
            cx.report(mistake.related(text.span, "the other one"));
            None
        }
        (Some(_), None) => Some(OnlyKind::Text),
        (None, Some(_)) => Some(OnlyKind::Binary),
        (None, None) => None,
    }
}

/// A ping is judged before the next one goes out.
fn pong_timeout(
    route: &schema::Route,
    sides: [&SideRules; 2],
    default: Duration,
    cx: &mut Context<'_>,
) -> Duration {
    let intervals = sides.into_iter().filter_map(|side| side.ping_interval);
    let Some(shortest) = intervals.min() else {
        return default;
    };
    let Some(given) = route.pong_timeout.given() else {
        return default.min(shortest / 2);
    };
    if given.value >= shortest {
        let pings = [
            &route.ping_interval,
            &route.client_ping_interval,
            &route.server_ping_interval,
        ];
        let pings = pings.into_iter().filter_map(Field::given);
        let too_often = pings.filter(|interval| interval.value <= given.value);
        let message = "a ping would not be judged before the next one goes out";
        let hint = "wait for a pong for less than the time between two pings".to_owned();
        let mistake = Diagnostic::error(given.span.clone(), message).hint(hint);
        cx.report(too_often.fold(mistake, |mistake, interval| {
            mistake.related(interval.span.clone(), "pings")
        }));
    }
    given.value
}

fn buffer(field: &Field<Text<ByteSize>>, default: usize, cx: &mut Context<'_>) -> usize {
    let size = size(
        field,
        default as u64,
        MIN_BUFFER..=MAX_BUFFER,
        "a tunnel cannot keep this much for a slow receiver, or this little",
        "from `64KiB` to `64MiB`",
        cx,
    );
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(default)
}

/// An integer whose range the schema has checked.
fn small<T: Read<Out = u64>>(field: &Field<T>, default: u8) -> u8 {
    u8::try_from(number(field, u32::from(default))).unwrap_or(default)
}

const JITTER_PERCENT: u32 = 10;
const MIN_BUFFER: u64 = 64 << 10;
const MAX_BUFFER: u64 = 64 << 20;
