//! The glue of message filters. Their interface is exported besides the handshake's, by a world of its
//! own: a plugin that filters handshakes only has nothing of it.

use std::cell::RefCell;

use super::{Exported, with_filter};
use crate::messages::{Ending, MessageFilter, Opening, Side};

#[allow(
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated"
)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "message-hooks",
        path: "wit/0.2.0",
        runtime_path: "::sluicegate_plugin::glue::rt",
        pub_export_macro: true,
        export_macro_name: "export_bindings",
        default_bindings_module: "::sluicegate_plugin::glue::messages::bindings",
    });
}

pub use bindings::exports::sluicegate::plugin::messages as wit;

type Session<P> = <<P as Exported>::Filter as MessageFilter>::Session;

/// A tunnel, as the host holds it.
pub struct Conversation<P>(RefCell<Session<P>>)
where
    P: Exported,
    P::Filter: MessageFilter;

pub fn wants<P>() -> wit::Interest
where
    P: Exported,
    P::Filter: MessageFilter,
{
    with_filter::<P, _>(|filter| filter.interest()).into()
}

pub fn open<P>(opening: wit::Opening) -> Option<wit::Conversation>
where
    P: Exported,
    P::Filter: MessageFilter,
{
    let opening = Opening::from(opening);
    let session = with_filter::<P, _>(|filter| filter.open(&opening))?;
    Some(wit::Conversation::new(Conversation::<P>(RefCell::new(
        session,
    ))))
}

impl<P> wit::GuestConversation for Conversation<P>
where
    P: Exported,
    P::Filter: MessageFilter,
{
    fn on_message(&self, sender: wit::Side, message: wit::Message) -> wit::Reaction {
        let sender = sender.into();
        let reaction = self.with(|filter, session| match &message {
            wit::Message::Text(text) => filter.on_text(session, sender, text),
            wit::Message::Binary(data) => filter.on_binary(session, sender, data),
            wit::Message::Ping(data) => filter.on_ping(session, sender, data),
            wit::Message::Pong(data) => filter.on_pong(session, sender, data),
        });
        reaction.into()
    }

    fn on_timer(&self) -> wit::Reaction {
        self.with(|filter, session| filter.on_timer(session)).into()
    }

    fn on_close(&self, ending: wit::Ending) {
        let ending = Ending {
            code: ending.code,
            by: ending.by.map(Side::from),
            cause: ending.cause,
        };
        self.with(|filter, session| filter.on_close(session, &ending));
    }
}

impl<P> Conversation<P>
where
    P: Exported,
    P::Filter: MessageFilter,
{
    /// The host makes one call of an instance at a time, so the session is free.
    fn with<T>(&self, hook: impl FnOnce(&P::Filter, &mut Session<P>) -> T) -> T {
        with_filter::<P, _>(|filter| hook(filter, &mut self.0.borrow_mut()))
    }
}

impl From<wit::Side> for Side {
    fn from(side: wit::Side) -> Self {
        match side {
            wit::Side::Client => Side::Client,
            wit::Side::Server => Side::Server,
        }
    }
}
