//! What a guest writes to the log, as lines of a test instead.
//!
//! The host logs through `tracing`; [`Captured::during`] listens on this thread for as long as a case runs.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The lines of one case: `warn: key refused consumer="ci"`.
#[derive(Debug, Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<String>>>);

#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: String,
    /// What the host says of a plugin by itself names no route.
    of_a_guest: bool,
}

impl Captured {
    /// Runs a case; its lines come here.
    pub(super) fn during<T>(&self, case: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::with_default(subscriber, case)
    }

    /// The lines since the last time.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Captured {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != GUESTS {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let Line {
            message,
            fields,
            of_a_guest: true,
        } = line
        else {
            return;
        };
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(match fields.as_str() {
            "" => format!("{level}: {message}"),
            fields => format!("{level}: {message} {fields}"),
        });
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "fields" => &mut self.fields,
            "route" => {
                self.of_a_guest = true;
                return;
            }
            _ => return,
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
    }
}

/// The host's target for what guests say.
const GUESTS: &str = "sluicegate::plugin";
