//! One route's use of a plugin, and the calls of a handshake.
//!
//! An instance serves one handshake at a time: it is instantiated, configured (or born so, from an
//! image), asked about the request and, if the plugin has that hook, about the response. Then it ends, unless the route
//! reuses it for later requests. A call that fails for any reason ends it, and takes back what the
//! call did to the head. Permits stand in front of the pool, so that a busy moment means a wait and
//! not a failure.

use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use sluicegate_plugin_rules::Session;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bindings::{Hooks, Pre};
use crate::error::FilterError;
use crate::instance::{Instance, Permits};
use crate::messages::{Interest, Rooms};
use crate::outbound::Outbound;
use crate::plugin::{Description, Limits, Plugin};
use crate::shelf::Shelf;

/// A plugin with one route's config. Cheap to clone; clones reuse the same instances.
#[derive(Clone)]
pub struct Filter(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    plugin: Arc<Plugin>,
    start: Start,
    /// What does something with this config.
    hooks: Hooks,
    /// `None`: each request gets an instance of its own.
    shelf: Option<Arc<Shelf>>,
    /// Where it is interested in messages: in which, and where its conversations sit.
    messages: Option<(Interest, Arc<Rooms>)>,
}

/// How a pristine instance comes to be configured.
#[derive(Clone)]
pub(crate) enum Start {
    /// `configure` runs in it, with this JSON.
    Configure(Arc<str>),
    /// It begins with the memory of an instance in which `configure` ran.
    Image(Arc<Pre>),
}

/// A request as a filter sees it. Boxed where it is handed on: it goes through many hands.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    /// The normal form.
    pub path: Arc<str>,
    /// Without the `?`.
    pub query: Option<Arc<str>>,
    pub headers: HeaderMap,
    /// The upstream that a filter chose instead of the route's.
    pub upstream: Option<Arc<str>>,
    /// What the filters before noted.
    pub session: Session,
    pub facts: Arc<CallFacts>,
}

/// An upstream's answer as a filter sees it. Boxed as a [`RequestHead`] is.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// It accepts the upgrade.
    pub is_upgrade: bool,
    pub headers: HeaderMap,
    /// The subprotocols that the client offered.
    pub offered: Arc<[String]>,
    /// What the filters before noted.
    pub session: Session,
}

/// What is known about a request and cannot be changed.
#[derive(Debug, Clone)]
pub struct CallFacts {
    pub client_ip: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Lower case, no port.
    pub host: Arc<str>,
    pub request_id: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    pub tls: Option<TlsFacts>,
    /// The other end of the connection; `None`: a unix socket's.
    pub peer: Option<SocketAddr>,
    /// What the listener is bound to, as configured.
    pub listener: Arc<str>,
    /// `1.0`, `1.1` or `2`.
    pub http_version: &'static str,
    /// An opening handshake.
    pub is_websocket: bool,
    /// The way to the upstreams, for requests of the guests' own.
    pub outbound: Option<Arc<dyn Outbound>>,
}

/// What the TLS handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
    pub sni: Option<Arc<str>>,
    pub client_subject: Option<Arc<str>>,
}

/// What a filter decides.
#[derive(Debug)]
pub enum Verdict {
    Continue,
    /// Checked: 200 to 599, at most 64 KiB, no protected field. It has no `content-length` yet.
    Respond(Response<Bytes>),
}

/// What came of a request hook.
#[derive(Debug)]
pub struct RequestOutcome {
    pub verdict: Verdict,
    /// For the upstream's answer; `None` where the plugin makes nothing of answers with this config, or
    /// has responded itself. The instance in it counts against `instances` until it is dropped.
    pub response_hook: Option<ResponseFilter>,
    /// What the plugin kept for its own later hooks; the response hook has it already.
    pub kept: Bytes,
}

/// What came of a response hook.
#[derive(Debug)]
pub struct ResponseOutcome {
    pub verdict: Verdict,
    /// What the plugin keeps now, for its conversation.
    pub kept: Bytes,
}

/// A filter that waits for the upstream's answer.
pub struct ResponseFilter {
    /// The one that saw the request; `None` where its config makes nothing of requests.
    instance: Option<Box<Instance>>,
    filter: Filter,
    facts: Arc<CallFacts>,
    kept: Bytes,
}

impl Filter {
    pub(crate) fn new(
        plugin: Arc<Plugin>,
        start: Start,
        hooks: Hooks,
        interest: Option<Interest>,
    ) -> Self {
        let Description {
            request_hook,
            response_hook,
            ..
        } = *plugin.description();
        let interest = interest.filter(|interest| !interest.is_nothing());
        Filter(Arc::new(Parts {
            hooks: Hooks {
                request: hooks.request && request_hook,
                response: hooks.response && response_hook,
                messages: interest.is_some(),
            },
            messages: interest.map(|interest| (interest, Rooms::new(&plugin, None, CONVERSATIONS))),
            plugin,
            start,
            shelf: None,
        }))
    }

    /// The same filter, but an instance serves up to so many requests, one after the other,
    /// before a fresh one takes its place.
    ///
    /// That gives up the isolation of one request from the next: what a guest keeps in its memory
    /// stays there, and the memory limit is for all those requests together. An instance still
    /// serves one request at a time, on the thread that made it, and none after a failure. The
    /// instances belong to this filter and its clones alone; they end with it.
    #[must_use]
    pub fn reusing(&self, requests: NonZeroU32) -> Filter {
        let shelf = Shelf::new(requests, &self.0.plugin.host.shelves);
        Filter(Arc::new(Parts {
            shelf: Some(shelf),
            ..Parts::clone(&self.0)
        }))
    }

    /// The same filter, with these rooms where it is interested in messages.
    pub(crate) fn with_rooms(&self, rooms: Arc<Rooms>) -> Filter {
        let mut parts = Parts::clone(&self.0);
        if let Some((_, own)) = &mut parts.messages {
            *own = rooms;
        }
        Filter(Arc::new(parts))
    }

    /// In which messages it is interested, and where its conversations sit.
    pub(crate) fn messages(&self) -> Option<&(Interest, Arc<Rooms>)> {
        self.0.messages.as_ref()
    }

    /// Whether it may send requests of its own.
    pub fn sends_requests(&self) -> bool {
        !self.0.plugin.identity.grants.http.is_empty()
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.0.plugin
    }

    /// Whether instances begin with an image of a configured memory; otherwise `configure` runs in
    /// each.
    pub fn has_image(&self) -> bool {
        matches!(self.0.start, Start::Image(_))
    }

    /// Whether this is a clone of the other.
    pub fn is(&self, other: &Filter) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Asks an instance about a request: a fresh one, or one that served others before.
    ///
    /// Waits up to `instance_wait` for an instance. Then `configure`, where it runs, and the hook each have
    /// `call_timeout` of CPU time within `wall_timeout`; the guest yields to other tasks each millisecond.
    ///
    /// # Errors
    /// See [`FilterError`]; the head then comes back as it was.
    pub async fn on_request(
        &self,
        head: Box<RequestHead>,
    ) -> (Box<RequestHead>, Result<RequestOutcome, FilterError>) {
        let Parts { plugin, hooks, .. } = &*self.0;
        let limits = &plugin.limits;
        let waiting = |instance, facts: &Arc<CallFacts>, kept: &Bytes| ResponseFilter {
            instance,
            filter: self.clone(),
            facts: Arc::clone(facts),
            kept: kept.clone(),
        };
        if !hooks.request {
            let outcome = RequestOutcome {
                verdict: Verdict::Continue,
                response_hook: hooks
                    .response
                    .then(|| waiting(None, &head.facts, &Bytes::new())),
                kept: Bytes::new(),
            };
            return (head, Ok(outcome));
        }
        let mut instance = match self.instance(&head.facts).await {
            Ok(instance) => instance,
            Err(error) => return (head, Err(error)),
        };
        instance.lend_request(head);
        let verdict = within_wall(limits, pin!(instance.on_request(limits))).await;
        let head = instance.take_request(verdict.is_ok());
        let kept = instance.take_kept();
        let outcome = match verdict {
            Ok(Verdict::Continue) if hooks.response => Ok(RequestOutcome {
                verdict: Verdict::Continue,
                response_hook: Some(waiting(Some(instance), &head.facts, &kept)),
                kept,
            }),
            verdict => {
                self.put_back(instance);
                verdict.map(|verdict| RequestOutcome {
                    verdict,
                    response_hook: None,
                    kept,
                })
            }
        };
        (head, outcome)
    }

    /// One that served others before, or a fresh one.
    async fn instance(&self, facts: &CallFacts) -> Result<Box<Instance>, FilterError> {
        if let Some(instance) = self.0.shelf.as_ref().and_then(|shelf| shelf.take()) {
            return Ok(instance);
        }
        // Boxed: a request that reuses an instance holds no room for the making of one.
        let made = Box::pin(async {
            let permits = self.permits(false).await?;
            let configured = pin!(self.configured(&facts.route, permits, false));
            within_wall(&self.0.plugin.limits, configured).await
        });
        made.await
    }

    /// A fresh instance for conversations.
    pub(crate) async fn talker(&self, route: &Arc<str>) -> Result<Box<Instance>, FilterError> {
        let permits = self.permits(true).await?;
        let configured = pin!(self.configured(route, permits, true));
        within_wall(&self.0.plugin.limits, configured).await
    }

    /// A pristine instance that has this filter's config.
    async fn configured(
        &self,
        route: &Arc<str>,
        permits: Permits,
        talks: bool,
    ) -> Result<Box<Instance>, FilterError> {
        let Plugin {
            host,
            identity,
            pre,
            limits,
            ..
        } = &*self.0.plugin;
        let (pre, config) = match &self.0.start {
            Start::Configure(config) => (pre, Some(config)),
            Start::Image(image) => (&**image, None),
        };
        let machine = &host.machine;
        let permits = Some(permits);
        let mut instance = if talks {
            Instance::talking(machine, identity, pre, limits, route, permits).await?
        } else {
            Instance::new(machine, identity, pre, limits, route, permits).await?
        };
        if let Some(config) = config {
            instance.configure_again(config, limits).await?;
        }
        Ok(instance)
    }

    /// The plugin's permit first, then the host's, for an instance to live, or to last.
    async fn permits(&self, to_last: bool) -> Result<Permits, FilterError> {
        let Plugin { host, permits, .. } = &*self.0.plugin;
        let lasting = to_last.then_some(&host.lasting);
        let now = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned().ok();
        let at_once = || {
            Some(Permits {
                _of_plugin: now(permits)?,
                _to_last: lasting.map_or(Some(None), |lasting| now(lasting).map(Some))?,
                _of_host: now(&host.permits)?,
            })
        };
        if let Some(permits) = at_once() {
            return Ok(permits);
        }
        let _waiting = host.shelves.make_room();
        let permits = timeout(self.0.plugin.limits.instance_wait, async {
            Some(Permits {
                _of_plugin: Arc::clone(permits).acquire_owned().await.ok()?,
                _to_last: match lasting {
                    Some(lasting) => Some(Arc::clone(lasting).acquire_owned().await.ok()?),
                    None => None,
                },
                _of_host: Arc::clone(&host.permits).acquire_owned().await.ok()?,
            })
        });
        permits.await.ok().flatten().ok_or(FilterError::NoInstance)
    }

    /// For a later request, where this filter keeps instances.
    fn put_back(&self, instance: Box<Instance>) {
        if let Some(shelf) = &self.0.shelf {
            shelf.put(instance);
        }
    }
}

impl ResponseFilter {
    /// Asks the instance about the upstream's answer. If it is dropped instead, the instance ends.
    ///
    /// # Errors
    /// See [`FilterError`]; the head then comes back as it was.
    pub async fn on_response(
        self,
        head: Box<ResponseHead>,
    ) -> (Box<ResponseHead>, Result<ResponseOutcome, FilterError>) {
        let limits = &self.filter.0.plugin.limits;
        let mut instance = match self.instance {
            Some(instance) => instance,
            None => match self.filter.instance(&self.facts).await {
                Ok(instance) => instance,
                Err(error) => return (head, Err(error)),
            },
        };
        instance.lend_response(head, self.facts, self.kept);
        let verdict = within_wall(limits, pin!(instance.on_response(limits))).await;
        let head = instance.take_response(verdict.is_ok());
        let kept = instance.take_kept();
        self.filter.put_back(instance);
        (
            head,
            verdict.map(|verdict| ResponseOutcome { verdict, kept }),
        )
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The config holds secrets.
        f.debug_struct("Filter")
            .field("plugin", &self.0.plugin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFilter")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// CPU time alone does not bound a wait: a call that others keep from running ends as well.
///
/// Most calls never wait, so the clock is read only for those that do.
pub(crate) async fn within_wall<T>(
    limits: &Limits,
    mut call: Pin<&mut impl Future<Output = Result<T, FilterError>>>,
) -> Result<T, FilterError> {
    let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
    if let Poll::Ready(result) = first {
        return result;
    }
    // Boxed: those that wait need not make the others larger.
    Box::pin(timeout(limits.wall_timeout, call))
        .await
        .unwrap_or(Err(FilterError::WallTimeout))
}

/// Conversations of one instance where nobody says how many.
const CONVERSATIONS: NonZeroU32 = const { NonZeroU32::new(1000).unwrap() };
