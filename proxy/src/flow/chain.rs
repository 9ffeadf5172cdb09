//! The filters of a route around one request: in order on the way in, in reverse on the way out.
//!
//! A filter that responds ends the way in; the filters before it still see the response. What a
//! failing filter does is the route's `on_error`: `deny` answers 500 (503 if no instance was free, or the
//! plugin is in quarantine), `pass` goes on as if it had not been there; its own changes are undone by
//! the host either way.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{Response, StatusCode};
use sluicegate_plugin_host::{
    Admission, CallFacts, FilterError, RequestHead, ResponseFilter, ResponseHead, ResponseOutcome,
    Session, TlsFacts, Verdict,
};

use crate::body::ResponseBody;
use crate::config::model::OnError;
use crate::error::{Failure, Side};
use crate::facts::Peer;
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::handshake::Kind;
use crate::snapshot::{ChainLink, Route};

/// A route's filters at work on one request.
pub(super) struct Chain<'a> {
    route: &'a Route,
    /// `None` without filters: then nothing is gathered for them either.
    facts: Option<Arc<CallFacts>>,
    /// The subprotocols that the client offered.
    offered: Arc<[String]>,
    /// The instances that wait for the response, in the order of the route.
    waiting: Vec<(&'a ChainLink, ResponseFilter)>,
}

impl<'a> Chain<'a> {
    pub(super) fn new(
        route: &'a Route,
        connection: &Connection,
        exchange: &Exchange,
        kind: &Kind,
    ) -> Result<Chain<'a>, Failure> {
        let facts = if route.chain.is_empty() {
            None
        } else {
            Some(Arc::new(call_facts(route, connection, exchange, kind)?))
        };
        Ok(Chain {
            route,
            facts,
            offered: match kind {
                Kind::WebSocket(offer) if !route.chain.is_empty() => {
                    offer.subprotocols.as_slice().into()
                }
                _ => Arc::default(),
            },
            waiting: Vec::new(),
        })
    }

    /// Without filters there is nothing to run.
    pub(super) fn is_empty(&self) -> bool {
        self.route.chain.is_empty()
    }

    /// Runs the request filters. `Some` is the response of one that decided.
    pub(super) async fn filter_request(
        &mut self,
        parts: &mut Parts,
        exchange: &mut Exchange,
    ) -> Result<Option<Response<ResponseBody>>, Failure> {
        let Some(call_facts) = &self.facts else {
            return Ok(None);
        };
        let facts = exchange.admitted_facts()?;
        let mut head = Box::new(RequestHead {
            method: parts.method.clone(),
            path: Arc::clone(&facts.path),
            query: facts.query.clone(),
            headers: std::mem::take(&mut parts.headers),
            upstream: None,
            session: Session::default(),
            facts: Arc::clone(call_facts),
        });
        let verdict = 'links: {
            for link in &self.route.chain {
                let started = Instant::now();
                let outcome;
                (head, outcome) = if self.admits(link, started) {
                    link.filter.on_request(head).await
                } else {
                    (head, Err(FilterError::Quarantined))
                };
                match outcome {
                    Ok(outcome) => {
                        link.metrics
                            .call(verdict_label(&outcome.verdict), started.elapsed());
                        if let Some(waiting) = outcome.response_hook {
                            self.waiting.push((link, waiting));
                        }
                        if let Verdict::Respond(response) = outcome.verdict {
                            break 'links Ok(Some(response.map(ResponseBody::own)));
                        }
                    }
                    Err(error) => {
                        if let Some(failure) = self.failed(link, &error, started) {
                            break 'links Err(failure);
                        }
                    }
                }
            }
            Ok(None)
        };
        parts.headers = head.headers;
        if let Some(facts) = exchange.facts_mut() {
            facts.query = head.query;
        }
        exchange.filtered(head.session, head.upstream);
        verdict
    }

    /// Runs the response filters of the instances that let the request through, last one first.
    pub(super) async fn filter_response(
        &mut self,
        response: &mut Response<ResponseBody>,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        while let Some((link, waiting)) = self.waiting.pop() {
            let started = Instant::now();
            let head = Box::new(ResponseHead {
                status: response.status(),
                is_upgrade: response.status() == StatusCode::SWITCHING_PROTOCOLS,
                headers: std::mem::take(response.headers_mut()),
                offered: Arc::clone(&self.offered),
                session: exchange.take_session(),
            });
            let (head, verdict) = waiting.on_response(head).await;
            *response.headers_mut() = head.headers;
            exchange.put_session(head.session);
            match verdict {
                Ok(ResponseOutcome { verdict, .. }) => {
                    link.metrics
                        .call(verdict_label(&verdict), started.elapsed());
                    if let Verdict::Respond(instead) = verdict {
                        *response = instead.map(ResponseBody::own);
                    }
                }
                Err(error) => {
                    if let Some(failure) = self.failed(link, &error, started) {
                        return Err(failure);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a plugin is asked, or in quarantine.
    fn admits(&self, link: &ChainLink, now: Instant) -> bool {
        let Some(quarantine) = &link.standing.quarantine else {
            return true;
        };
        match quarantine.admit(now) {
            Admission::Admitted => true,
            Admission::Back { spared } => {
                link.metrics.set_quarantine(None);
                let (plugin, route) = (link.filter.plugin().name(), &*self.route.name);
                tracing::info!(plugin, route, spared, "the plugin's quarantine is over");
                true
            }
            Admission::Out => false,
        }
    }

    /// Counts and logs a filter's failure; what it means for the request is `on_error`'s.
    fn failed(&self, link: &ChainLink, error: &FilterError, started: Instant) -> Option<Failure> {
        let now = Instant::now();
        link.metrics.call(error.label(), now - started);
        if !matches!(error, FilterError::Quarantined) {
            self.log_failure(link, error, now);
        }
        if error.is_fault()
            && let Some(quarantine) = &link.standing.quarantine
            && let Some(until) = quarantine.failed(now)
        {
            link.metrics.quarantined(until);
            let (plugin, route) = (link.filter.plugin().name(), &*self.route.name);
            let rule = quarantine.rule();
            let (fails, within, out_for) = (rule.fails, rule.within, rule.out_for);
            tracing::warn!(
                plugin,
                route,
                fails,
                ?within,
                ?out_for,
                "the plugin is in quarantine"
            );
        }
        match (link.on_error, error) {
            (OnError::Pass, _) => None,
            (OnError::Deny, FilterError::NoInstance | FilterError::Quarantined) => Some(
                Failure::new(Side::Filter, StatusCode::SERVICE_UNAVAILABLE, error.label()),
            ),
            (OnError::Deny, _) => Some(Failure::new(
                Side::Filter,
                StatusCode::INTERNAL_SERVER_ERROR,
                error.label(),
            )),
        }
    }

    /// A line about a failure, if there is room for one, and a count of those before for which there
    /// was none.
    fn log_failure(&self, link: &ChainLink, error: &FilterError, now: Instant) {
        let plugin = link.filter.plugin().name();
        let route = &*self.route.name;
        let pass = link.standing.failures.pass(now);
        if pass.suppressed > 0 {
            let suppressed = pass.suppressed;
            tracing::warn!(
                plugin,
                route,
                suppressed,
                "filter failed as often without a line"
            );
        }
        match error {
            _ if !pass.allowed => {}
            FilterError::Trap { backtrace, .. } => {
                tracing::warn!(plugin, route, %error, backtrace, "filter failed");
            }
            // In the guest's own words, which may quote its secrets.
            FilterError::Configure(_) => {
                tracing::warn!(plugin, route, "filter failed: it refuses its config now");
            }
            _ => tracing::warn!(plugin, route, %error, "filter failed"),
        }
    }
}

fn call_facts(
    route: &Route,
    connection: &Connection,
    exchange: &Exchange,
    kind: &Kind,
) -> Result<CallFacts, Failure> {
    let facts = exchange.admitted_facts()?;
    let sends = route.chain.iter().any(|link| link.filter.sends_requests());
    Ok(CallFacts {
        client_ip: facts.client_ip,
        scheme: facts.scheme,
        host: Arc::clone(&facts.host),
        request_id: Arc::clone(&facts.request_id),
        route: Arc::clone(&route.name),
        tls: connection.facts.tls.as_ref().map(|tls| TlsFacts {
            version: tls.version,
            cipher: tls.cipher,
            sni: tls.sni.clone(),
            client_subject: tls.client_subject.clone(),
        }),
        peer: match connection.facts.peer {
            Peer::Ip(address) => Some(address),
            Peer::Unix => None,
        },
        listener: Arc::clone(&connection.facts.listener),
        http_version: exchange.http_version(),
        is_websocket: matches!(kind, Kind::WebSocket(_)),
        outbound: sends.then(|| exchange.outbound()),
    })
}

fn verdict_label(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Continue => "continue",
        Verdict::Respond(_) => "respond",
    }
}
