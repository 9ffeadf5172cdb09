//! The filters of a route around one request: in order on the way in, in reverse on the way out.
//!
//! A filter that responds ends the way in; the filters before it still see the response. What a
//! failing filter does is the route's `on_error`: `deny` answers 500 (503 if no instance was free, or the
//! plugin is in quarantine), `pass` goes on as if it had not been there; its own changes are undone by
//! the host either way.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use http::{Response, StatusCode};
use sluicegate_plugin_host::messages::Opening;
use sluicegate_plugin_host::{
    CallFacts, FilterError, RequestHead, ResponseFilter, ResponseHead, ResponseOutcome, Session,
    TlsFacts, Verdict,
};

use crate::body::ResponseBody;
use crate::config::model::OnError;
use crate::error::{Failure, Side};
use crate::facts::Peer;
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::flow::link;
use crate::flow::message_chain::MessageChain;
use crate::handshake::Kind;
use crate::snapshot::{ChainLink, Route};
use crate::tunnel::Judge;

/// A route's filters at work on one request.
pub(super) struct Chain<'a> {
    route: &'a Route,
    /// `None` without filters: then nothing is gathered for them either.
    facts: Option<Arc<CallFacts>>,
    /// The subprotocols that the client offered.
    offered: Arc<[String]>,
    /// The instances that wait for the response, in the order of the route.
    waiting: Vec<(usize, ResponseFilter)>,
    /// What each filter kept for its conversation, by its place; empty where no filter has any.
    kept: Vec<Bytes>,
    /// The client's fields as the filters left them, likewise.
    fields: HeaderMap,
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
            kept: match route.converses {
                true => vec![Bytes::new(); route.chain.len()],
                false => Vec::new(),
            },
            fields: HeaderMap::new(),
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
            for (index, link) in self.route.chain.iter().enumerate() {
                let started = Instant::now();
                let outcome;
                (head, outcome) = if link::admits(self.route, link, started) {
                    link.filter.on_request(head).await
                } else {
                    (head, Err(FilterError::Quarantined))
                };
                match outcome {
                    Ok(outcome) => {
                        link.metrics
                            .call(verdict_label(&outcome.verdict), started.elapsed());
                        if let Some(kept) = self.kept.get_mut(index) {
                            *kept = outcome.kept;
                        }
                        if let Some(waiting) = outcome.response_hook {
                            self.waiting.push((index, waiting));
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
        if self.route.converses {
            self.fields = head.headers.clone();
        }
        parts.headers = head.headers;
        if let Some(facts) = exchange.facts_mut() {
            facts.query = head.query;
        }
        exchange.filtered(head.session, head.upstream);
        verdict
    }

    /// Whether a filter that has seen the request waits for its answer.
    pub(super) fn sees_answer(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Runs the response filters of the instances that let the request through, last one first.
    pub(super) async fn filter_response(
        &mut self,
        response: &mut Response<ResponseBody>,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        while let Some((index, waiting)) = self.waiting.pop() {
            let link = &self.route.chain[index];
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
                Ok(ResponseOutcome { verdict, kept }) => {
                    if let Some(own) = self.kept.get_mut(index) {
                        *own = kept;
                    }
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

    /// Counts and logs a filter's failure; what it means for the request is `on_error`'s.
    fn failed(&self, link: &ChainLink, error: &FilterError, started: Instant) -> Option<Failure> {
        let now = Instant::now();
        link.metrics.call(error.label(), now - started);
        link::failed(self.route, link, error, now);
        failure(link, error)
    }

    /// Opens the conversations of the filters that want to see the tunnel's messages; `None`: none does.
    pub(super) async fn converse(
        &mut self,
        response: &Response<ResponseBody>,
        exchange: &Exchange,
    ) -> Result<Option<Box<dyn Judge>>, Failure> {
        let (Some(facts), true) = (&self.facts, self.route.converses) else {
            return Ok(None);
        };
        let request = exchange.admitted_facts()?;
        let subprotocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
        let mut opening = Opening {
            request_id: Arc::clone(&facts.request_id),
            route: Arc::clone(&facts.route),
            host: Arc::clone(&facts.host),
            path: Arc::clone(&request.path),
            query: request.query.clone(),
            client_ip: facts.client_ip,
            headers: std::mem::take(&mut self.fields),
            subprotocol: subprotocol.and_then(|chosen| Some(chosen.to_str().ok()?.to_owned())),
            labels: exchange.session().labels.clone(),
            kept: Bytes::new(),
        };
        let mut chain = MessageChain::new(exchange.route()?);
        for (index, link) in self.route.chain.iter().enumerate() {
            if link.filter.interest().is_none() {
                continue;
            }
            let started = Instant::now();
            opening.kept = self.kept.get(index).cloned().unwrap_or_default();
            let opened = if link::admits(self.route, link, started) {
                // In a task of its own: a client that leaves in mid-call would take the instance along, and
                // with it the tunnels of others.
                let (filter, facts) = (link.filter.clone(), Arc::clone(facts));
                let opening_up = tokio::spawn(async move {
                    let opened = filter.open(&opening, facts).await;
                    (opening, opened)
                });
                let joined = opening_up.await;
                let (same, opened) = joined.map_err(|_| Failure::internal("conversation"))?;
                opening = same;
                opened
            } else {
                Err(FilterError::Quarantined)
            };
            match opened {
                Ok(None) => {}
                Ok(Some(conversation)) => chain.add(index, conversation),
                Err(error) => {
                    if let Some(failure) = self.failed(link, &error, started) {
                        return Err(failure);
                    }
                }
            }
        }
        Ok(chain.into_judge())
    }
}

/// What a filter's failure means for a request.
fn failure(link: &ChainLink, error: &FilterError) -> Option<Failure> {
    let status = match (link.on_error, error) {
        (OnError::Pass, _) => return None,
        (OnError::Deny, FilterError::NoInstance | FilterError::Quarantined) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        (OnError::Deny, _) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Some(Failure::new(Side::Filter, status, error.label()))
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
