//! What a lane puts before the court, and what it does about what it hears.

use super::{Beside, Lane, Shared};
use crate::tunnel::carrier::Stop;
use crate::tunnel::judge::{Injection, Judged, Kind, Moment, Outcome, Receiver};
use crate::tunnel::keepalive::Pong;
use crate::tunnel::messages::waiting::{Waiting, data_kind};
use crate::ws::frame::Side;
use crate::ws::message::{Control, ControlKind, Message};

impl Lane {
    /// A data message that came whole: past the court where no filter wants it.
    pub(super) fn message(
        &mut self,
        message: Message,
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<(), Box<Stop>> {
        let kind = data_kind(message.kind);
        if !self.interest.wants(kind, message.plain().len() as u64) {
            self.output.forward(&message, beside.shared);
            return Ok(());
        }
        self.ask_about(Waiting::Data(message), beside)
    }

    /// A control frame: a Close goes on, a pong of ours is taken, others are the court's where a filter wants them.
    pub(super) fn control(
        &mut self,
        control: Control,
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<(), Box<Stop>> {
        let kind = match control.kind {
            ControlKind::Close => {
                self.output.close(&control.wire(), beside.shared);
                return Ok(());
            }
            ControlKind::Ping => Kind::Ping,
            ControlKind::Pong => Kind::Pong,
        };
        if kind == Kind::Pong
            && let Some(pinger) = &mut self.pinger
        {
            match pinger.pong(control.payload(), || beside.shared.now()) {
                Pong::Answer(round_trip) => {
                    if let Some(metrics) = beside.shared.metrics {
                        metrics.ping_round_trip(self.sender, round_trip);
                    }
                    return Ok(());
                }
                Pong::Late => return Ok(()),
                Pong::Foreign => {}
            }
        }
        if self.output.is_muted() {
            return Ok(());
        }
        if !self.interest.wants(kind, control.payload().len() as u64) {
            self.output.wire(&control.wire(), beside.shared);
            return Ok(());
        }
        self.ask_about(Waiting::Control(control), beside)
    }

    /// Puts what is waiting before the court, if that is free.
    pub(super) fn ask(&mut self, beside: &mut Beside<'_, '_, '_>) -> Result<(), Box<Stop>> {
        if beside.court.has_failed() {
            self.waiting = None;
        }
        if beside.court.is_busy() {
            return Ok(());
        }
        match self.waiting.take() {
            Some(waiting) => self.ask_about(*waiting, beside),
            None => Ok(()),
        }
    }

    /// Puts this before the court and does what it says, or lets it wait.
    fn ask_about(
        &mut self,
        mut waiting: Waiting,
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<(), Box<Stop>> {
        if beside.court.has_failed() {
            return Ok(());
        }
        if !beside.court.is_busy() {
            let message = waiting.lend();
            self.lent = message.data.len();
            beside.court.try_message(self.sender, message);
            if let Some((_, judged)) = beside.court.poll(beside.cx)? {
                self.lent = 0;
                return self.obey(Some(waiting), judged, beside.other, beside.shared);
            }
        }
        self.waiting = Some(Box::new(waiting));
        Ok(())
    }

    /// As [`Lane::ask`], between this lane's turns.
    pub(in crate::tunnel::messages) fn ask_late(
        &mut self,
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<(), Box<Stop>> {
        let asked = self.ask(beside);
        self.output.hold(&mut beside.shared.out);
        asked
    }

    /// Does what the court said about a message, or about nothing but the time.
    fn obey(
        &mut self,
        waiting: Option<Waiting>,
        judged: Judged,
        other: &mut Lane,
        shared: &mut Shared<'_>,
    ) -> Result<(), Box<Stop>> {
        let Judged { outcome, inject } = judged;
        self.put_in(&inject, Moment::Before, other, shared);
        match (outcome, waiting) {
            (Outcome::Stop(stop), _) => return Err(stop),
            (Outcome::Nothing, _) | (_, None) => {}
            (Outcome::Forward(asked), Some(Waiting::Data(mut message))) => {
                message.give_back(asked.data);
                self.output.forward(&message, shared);
            }
            (Outcome::Forward(_), Some(Waiting::Control(control))) => {
                self.output.wire(&control.wire(), shared);
            }
            (Outcome::Replace(new), Some(waiting)) => {
                self.output.replace(&new, waiting.is_compressed(), shared);
            }
            (Outcome::Drop, Some(waiting)) => {
                self.output.dropped(waiting.is_compressed());
            }
        }
        self.put_in(&inject, Moment::After, other, shared);
        Ok(())
    }

    /// What the court has come to at last, about this lane's message if it is its answer.
    pub(in crate::tunnel::messages) fn hear(
        &mut self,
        about_message: bool,
        judged: Judged,
        other: &mut Lane,
        shared: &mut Shared<'_>,
    ) -> Result<(), Box<Stop>> {
        let waiting = match about_message {
            true => {
                self.lent = 0;
                self.waiting.take().map(|waiting| *waiting)
            }
            false => None,
        };
        let obeyed = self.obey(waiting, judged, other, shared);
        self.output.hold(&mut shared.out);
        obeyed
    }

    fn put_in(
        &mut self,
        injections: &[Injection],
        moment: Moment,
        other: &mut Lane,
        shared: &mut Shared<'_>,
    ) {
        let settled = moment == Moment::After;
        for injection in injections.iter().filter(|it| it.moment == moment) {
            let ours = match injection.to {
                Receiver::Client => self.sender == Side::FromServer,
                Receiver::Server => self.sender == Side::FromClient,
            };
            if ours {
                self.output.inject(&injection.message);
                self.put_own_if(settled, shared);
            } else {
                other.output.inject(&injection.message);
            }
        }
    }
}
