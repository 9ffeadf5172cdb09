//! Upstreams that answer what a case file says, in the place of real ones.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use sluicegate_plugin_host::{
    Outbound, OutboundError, OutboundFuture, OutboundRequest, OutboundResponse,
};

use crate::config::cases::{FieldValues, HttpAnswer, OutboundFailure};

/// The answers of one case, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Stub {
    answers: Vec<(HttpAnswer, Bytes)>,
    unanswered: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// `answers` with the bodies of those that respond.
    pub(super) fn new(answers: Vec<(HttpAnswer, Bytes)>) -> Self {
        Stub {
            answers,
            unanswered: Arc::default(),
        }
    }

    /// The requests that no answer fitted, each once.
    pub(super) fn unanswered(&self) -> Vec<String> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn answer(&self, request: &OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let fitting = self
            .answers
            .iter()
            .find(|(answer, _)| fits(answer, request));
        let Some((answer, body)) = fitting else {
            let OutboundRequest {
                upstream,
                method,
                path,
                ..
            } = request;
            let what = format!("{method} {path} of upstream `{upstream}`");
            let mut unanswered = self
                .unanswered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !unanswered.contains(&what) {
                unanswered.push(what);
            }
            let why = "the case has no `[[case.http]]` for it".to_owned();
            return Err(OutboundError::Unreachable(why));
        };
        match &answer.answer {
            Ok(_) if body.len() > request.max_body => Err(OutboundError::TooLarge),
            Ok(response) => Ok(OutboundResponse {
                status: response.status,
                headers: response.headers.clone(),
                body: body.clone(),
            }),
            Err(OutboundFailure::Timeout) => Err(OutboundError::Timeout),
            Err(OutboundFailure::Unreachable) => {
                Err(OutboundError::Unreachable("as the case says".to_owned()))
            }
            Err(OutboundFailure::Broken) => {
                Err(OutboundError::Broken("as the case says".to_owned()))
            }
            Err(OutboundFailure::TooLarge) => Err(OutboundError::TooLarge),
        }
    }
}

impl Outbound for Stub {
    fn send(&self, request: OutboundRequest) -> OutboundFuture {
        let answer = self.answer(&request);
        Box::pin(std::future::ready(answer))
    }
}

fn fits(answer: &HttpAnswer, request: &OutboundRequest) -> bool {
    let path = |path: &String| match path.contains('?') {
        true => *path == request.path,
        false => request.path.split('?').next() == Some(path),
    };
    let method = |method: &Method| *method == request.method;
    answer.upstream == *request.upstream
        && answer.method.as_ref().is_none_or(method)
        && answer.path.as_ref().is_none_or(path)
        && (answer.headers.iter()).all(|(name, values)| has(&request.headers, name, values))
        && (answer.body.as_ref()).is_none_or(|body| *body == request.body)
}

/// Whether a field has exactly these values.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName, values: &FieldValues) -> bool {
    let there = headers.get_all(name).iter();
    match values {
        FieldValues::Absent => there.count() == 0,
        FieldValues::Exactly(expected) => there
            .map(http::HeaderValue::as_bytes)
            .eq(expected.iter().map(String::as_bytes)),
    }
}
