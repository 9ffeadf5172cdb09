//! One tunnel's talk with a plugin.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::component::ResourceAny;

use super::room::{Room, Rooms, Turn};
use super::{Ending, Interest, Isolation, Kind, Opening, Reaction, Side};
use crate::error::FilterError;
use crate::filter::{CallFacts, Filter, within_wall};

/// A plugin's view of one tunnel. Dropping it frees what the guest keeps of it at the next call of its instance, or
/// with the instance.
///
/// Each call has `call_timeout` of CPU time within `wall_timeout`, both counted from its turn on: the calls of
/// conversations that share an instance wait for each other, in the order in which they were made. A call
/// that is dropped before it has ended is the end of the instance.
pub struct Conversation {
    filter: Filter,
    seat: Seat,
    facts: Arc<CallFacts>,
}

/// A place in a room; given back when it is dropped.
struct Seat {
    room: Arc<Room>,
    /// The guest's half of the conversation.
    resource: Option<ResourceAny>,
    /// Under what number its task is told of a failure, and who that is.
    watch: Option<(u64, Waker)>,
}

impl Filter {
    /// What its message hooks want to see with this config; `None`: nothing, there is no conversation.
    pub fn interest(&self) -> Option<&Interest> {
        self.messages().map(|(interest, _)| interest)
    }

    /// The same filter, its conversations spread so over instances of its own, up to so many in one.
    ///
    /// Without a word about `isolation` they share one, unless the plugin calls what may take long (a request
    /// to an upstream, a password): then each gets its own, or all would wait for the slowest.
    #[must_use]
    pub fn conversing(&self, isolation: Option<Isolation>, per_instance: NonZeroU32) -> Filter {
        self.with_rooms(Rooms::new(self.plugin(), isolation, per_instance))
    }

    /// Begins a conversation; `None`: the plugin makes nothing of this tunnel, or of messages at all.
    ///
    /// It sits in an instance of this thread that has room, or in a new one, for which it waits up to
    /// `instance_wait`. An instance that serves conversations counts as one of `instances` until the last
    /// of them is dropped.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub async fn open(
        &self,
        opening: &Opening,
        facts: Arc<CallFacts>,
    ) -> Result<Option<Conversation>, FilterError> {
        let Some((_, rooms)) = self.messages() else {
            return Ok(None);
        };
        let mut seat = Seat {
            room: rooms.sit(),
            resource: None,
            watch: None,
        };
        seat.resource = self.opened(&seat.room, opening, &facts).await?;
        Ok(seat.resource.is_some().then(|| Conversation {
            filter: self.clone(),
            seat,
            facts,
        }))
    }

    /// The guest's half of a new conversation.
    async fn opened(
        &self,
        room: &Room,
        opening: &Opening,
        facts: &Arc<CallFacts>,
    ) -> Result<Option<ResourceAny>, FilterError> {
        let limits = &self.plugin().limits;
        // Boxed: few have to furnish the room themselves.
        let make = || Box::pin(self.talker(&facts.route));
        let mut turn = room.turn(make).await?;
        self.tidy(&mut turn).await?;
        let open = turn.instance()?.open(opening, facts, limits);
        within_wall(limits, pin!(open)).await
    }

    /// Frees what the guest still holds of conversations that are over.
    async fn tidy(&self, turn: &mut Turn<'_>) -> Result<(), FilterError> {
        let limits = &self.plugin().limits;
        for resource in turn.gone() {
            let dismiss = pin!(turn.instance()?.dismiss(resource, limits));
            within_wall(limits, dismiss).await?;
        }
        Ok(())
    }
}

impl Conversation {
    /// Asks about a message, text in UTF-8. Whether the plugin wants it is for the caller to know
    /// ([`Interest::wants`]).
    ///
    /// # Errors
    /// See [`FilterError`]. After `BadReaction` the conversation may go on; after any other its instance is gone.
    pub async fn on_message(
        &mut self,
        sender: Side,
        kind: Kind,
        data: &[u8],
    ) -> Result<Reaction, FilterError> {
        let (mut turn, resource) = self.turn().await?;
        let limits = &self.filter.plugin().limits;
        let message = (sender, kind, data);
        let call = turn
            .instance()?
            .on_message(resource, &self.facts, message, limits);
        within_wall(limits, pin!(call)).await
    }

    /// Lets the plugin act on its own account; the verdict is `Forward` or `Close`.
    ///
    /// # Errors
    /// As [`Conversation::on_message`].
    pub async fn on_timer(&mut self) -> Result<Reaction, FilterError> {
        let (mut turn, resource) = self.turn().await?;
        let limits = &self.filter.plugin().limits;
        let call = turn.instance()?.on_timer(resource, &self.facts, limits);
        within_wall(limits, pin!(call)).await
    }

    /// Tells the plugin how the tunnel ended, if it wants to know.
    ///
    /// # Errors
    /// As [`Conversation::on_message`].
    pub async fn on_close(self, ending: &Ending) -> Result<(), FilterError> {
        if !self
            .filter
            .interest()
            .is_some_and(|interest| interest.close)
        {
            return Ok(());
        }
        let (mut turn, resource) = self.turn().await?;
        let limits = &self.filter.plugin().limits;
        let call = turn
            .instance()?
            .on_close(resource, &self.facts, ending, limits);
        within_wall(limits, pin!(call)).await
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Ready once its instance has failed, in whosever call; the task is woken then.
    pub fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Seat { room, watch, .. } = &mut self.seat;
        if room.has_failed() {
            return Poll::Ready(());
        }
        if !matches!(watch, Some((_, waker)) if waker.will_wake(cx.waker())) {
            let known_as = watch.as_ref().map(|(id, _)| *id);
            let id = room.watch(known_as, cx.waker().clone());
            *watch = Some((id, cx.waker().clone()));
            // It may have failed while it was not watched.
            if room.has_failed() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// A turn in an instance that is tidy.
    async fn turn(&self) -> Result<(Turn<'_>, ResourceAny), FilterError> {
        let Seat { room, resource, .. } = &self.seat;
        let resource = resource.ok_or(FilterError::InstanceGone)?;
        if let Some(turn) = room.turn_at_once() {
            return Ok((turn, resource));
        }
        // Boxed: those that wait need not make the others larger.
        let turn = Box::pin(async {
            // Who has a resource has furnished the room.
            let none = async || Err(FilterError::InstanceGone);
            let mut turn = room.turn(none).await?;
            self.filter.tidy(&mut turn).await?;
            Ok(turn)
        });
        Ok((turn.await?, resource))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let known_as = self.watch.take().map(|(id, _)| id);
        self.room.leave(self.resource.take(), known_as);
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}
