//! What came of a conversation beside what was expected of it.

use toml_edit::Value;

use super::super::converse::Came;
use super::super::run::Got;
use super::super::written::{arrival, closing, message, quoted, shown, text};
use super::{Difference, Place};
use crate::config::cases::{Case, Closing, Happening, Side, Step};

/// The differences of all steps, in their order.
pub(super) fn differences(case: &Case, got: &Got) -> Vec<Difference> {
    let mut found = Vec::new();
    let Some(conversed) = &got.conversed else {
        let first = case
            .messages
            .first()
            .map(|step| unreached(0, step, "there is no tunnel"));
        found.extend(first);
        return found;
    };
    for (index, (step, came)) in case.messages.iter().zip(&conversed.steps).enumerate() {
        let before = found.len();
        // Of a step that is repeated, the first time that something else comes of it.
        for came in came {
            of_step(index, step, came, &mut found);
            if found.len() > before {
                break;
            }
        }
        if step.repeat > 1 && (came.len() > 1 || came.iter().any(Came::ends)) {
            // Its repetitions came to several things: these are several messages.
            for difference in found.iter_mut().skip(before) {
                difference.write = None;
            }
        }
        if came.is_empty() {
            found.push(unreached(index, step, "the tunnel had ended before"));
            break;
        }
    }
    found
}

fn unreached(index: usize, step: &Step, why: &str) -> Difference {
    Difference {
        place: Place::Message(index),
        path: Vec::new(),
        expected: vec![happening(&step.what)],
        got: vec![why.to_owned()],
        write: None,
    }
}

fn of_step(index: usize, step: &Step, came: &Came, found: &mut Vec<Difference>) {
    let mut differs = |key: &str, expected: String, got: String, write: Value| {
        found.push(Difference {
            place: Place::Message(index),
            path: vec![key.to_owned()],
            expected: vec![expected],
            got: got.lines().map(str::to_owned).collect(),
            write: Some(write),
        });
    };
    let arrivals = [
        ("to_server", &step.to_server, &came.to_server, Side::Client),
        ("to_client", &step.to_client, &came.to_client, Side::Server),
    ];
    for (key, expected, came_there, from) in arrivals {
        let unchanged = match &step.what {
            Happening::Said(sender, said) if *sender == from && !came.ends() => vec![said.clone()],
            _ => Vec::new(),
        };
        let expected = expected.as_ref().unwrap_or(&unchanged);
        if expected != came_there {
            let (expected, got) = (arrival(expected), arrival(came_there));
            differs(
                key,
                shown_or(&expected, "nothing"),
                shown_or(&got, "nothing"),
                got,
            );
        }
    }
    let as_expected = match (&step.close, &came.close) {
        (None, None) => true,
        (Some(expected), Some((code, reason))) => {
            let reason_fits = expected.reason.as_ref().is_none_or(|text| text == reason);
            expected.code == *code && reason_fits
        }
        _ => false,
    };
    if !as_expected {
        let expected = closing(step.close.as_ref());
        let got = came.close.as_ref().map(|(code, reason)| Closing {
            code: *code,
            reason: Some(reason.clone()),
        });
        let got = closing(got.as_ref());
        differs(
            "close",
            shown_or(&expected, "goes on"),
            shown_or(&got, "goes on"),
            got,
        );
    }
    match (&step.error, &came.error) {
        (None, None) => {}
        (Some(expected), Some(error)) if error.starts_with(expected.as_str()) => {}
        (expected, error) => {
            let none = || "no failure".to_owned();
            let expected = expected.as_deref().map_or_else(none, quoted);
            let first = error.as_deref().and_then(|error| error.lines().next());
            let write = first.map_or(Value::from(false), text);
            differs("error", expected, error.clone().unwrap_or_else(none), write);
        }
    }
}

fn happening(what: &Happening) -> String {
    match what {
        Happening::Said(Side::Client, said) => format!("client = {}", shown(&message(said))),
        Happening::Said(Side::Server, said) => format!("server = {}", shown(&message(said))),
        Happening::Tick => "tick = true".to_owned(),
    }
}

fn shown_or(value: &Value, nothing: &str) -> String {
    match value {
        Value::Boolean(_) => nothing.to_owned(),
        value => shown(value),
    }
}
