//! Where messages are judged: by one judge, one at a time.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::tunnel::Summary;
use crate::tunnel::carrier::Stop;
use crate::tunnel::judge::{Judge, Judged, Judging, Message};
use crate::ws::frame::Side;

pub(super) enum Court {
    /// There is no judge.
    Empty,
    Free(Box<dyn Judge>),
    Busy {
        /// Who said what is being judged; `None`: it is the judge's own time.
        sender: Option<Side>,
        judging: Judging,
    },
    /// The judge cannot go on, which has been told. What is put before it gets no answer.
    Failed(Box<dyn Judge>),
}

/// An answer, to a side's message or to a tick.
pub(super) type Heard = (Option<Side>, Judged);

impl Court {
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Court::Busy { .. })
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self, Court::Failed(_))
    }

    /// Puts a message before a judge who is free; [`Court::poll`] has the answer.
    pub(super) fn try_message(&mut self, sender: Side, message: Message) {
        self.occupy(Some(sender), |judge| judge.judge(sender, message));
    }

    /// Gives a judge who is free something to do.
    fn occupy(&mut self, sender: Option<Side>, ask: impl FnOnce(Box<dyn Judge>) -> Judging) {
        *self = match std::mem::replace(self, Court::Empty) {
            Court::Free(judge) => Court::Busy {
                sender,
                judging: ask(judge),
            },
            other => other,
        };
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    /// The judge cannot go on; told once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<Option<Heard>, Box<Stop>> {
        match self {
            Court::Empty | Court::Failed(_) => Ok(None),
            Court::Free(judge) => match judge.poll_failed(cx) {
                Poll::Ready(stop) => {
                    if let Court::Free(judge) = std::mem::replace(self, Court::Empty) {
                        *self = Court::Failed(judge);
                    }
                    Err(stop)
                }
                Poll::Pending => Ok(None),
            },
            Court::Busy { sender, judging } => match judging.as_mut().poll(cx) {
                Poll::Pending => Ok(None),
                Poll::Ready((judge, judged)) => {
                    let sender = *sender;
                    *self = Court::Free(judge);
                    Ok(Some((sender, judged)))
                }
            },
        }
    }

    /// When the judge wants to be asked without a message.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Court::Free(judge) => judge.next_tick(),
            Court::Empty | Court::Busy { .. } | Court::Failed(_) => None,
        }
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.occupy(None, |judge| judge.tick());
        }
    }

    /// Lets the judge finish and say goodbye; `None`: there is none.
    pub(super) fn part(self, summary: Summary) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        match self {
            Court::Empty => None,
            Court::Free(judge) | Court::Failed(judge) => Some(judge.part(summary)),
            Court::Busy { judging, .. } => Some(Box::pin(async move {
                let (judge, _) = judging.await;
                judge.part(summary).await;
            })),
        }
    }
}
