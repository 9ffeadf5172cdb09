//! The configuration changes under load: good generations, with other certificates at times, and broken ones;
//! at a walk, and in between ten times a second.
//!
//! After each reload it is seen from outside which generation serves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_tests::websocket::random::Random;

use crate::clients::{Order, Orders, http, pause};
use crate::ledger::Count;
use crate::world::admin::Admin;
use crate::world::config::{self, Choices, Flaw};
use crate::world::{Door, World};

/// Changes the configuration until the round is over; ends on a good generation.
pub(crate) async fn reload(world: Arc<World>, mut random: Random, mut orders: Orders) {
    let mut reloads = Reloads {
        admin: Admin::new(world.proxy.admin()),
        choices: Choices::default(),
        shown: None,
        world,
    };
    // A round begins with the generation that the last one ended with, which this makes known.
    reloads.change(&mut random, Kind::Good).await;
    loop {
        let hurries = random.once_in(3);
        let (times, pace) = match hurries {
            true => (40, 100),
            false => (4, random.between(500, 1_500) as u64),
        };
        for _ in 0..times {
            if pause(&mut orders, Duration::from_millis(pace)).await != Order::Stay {
                return reloads.change(&mut random, Kind::Good).await;
            }
            let kind = match random.below(4) {
                0 => Kind::Broken,
                1 => Kind::Certificate,
                _ => Kind::Good,
            };
            reloads.change(&mut random, kind).await;
        }
    }
}

struct Reloads {
    world: Arc<World>,
    admin: Admin,
    /// The generation that serves.
    choices: Choices,
    /// The certificate that it shows, if it is known.
    shown: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Certificate,
    Broken,
}

impl Reloads {
    async fn change(&mut self, random: &mut Random, kind: Kind) {
        let began = Instant::now();
        let mut wanted = Choices {
            // Another one each time, also in the next round.
            mark: random.number() >> 16,
            more_routes: random.below(20),
            ..self.choices
        };
        let mut shown = self.shown.clone();
        match kind {
            Kind::Good => {}
            Kind::Certificate => {
                wanted.certificate = 1 + (self.choices.certificate % 8);
                let (dir, authority) = (self.world.proxy.dir(), &self.world.authority);
                let identity = config::issue(authority, dir, wanted.certificate);
                shown = Some(identity.der().to_vec());
            }
            Kind::Broken => {
                wanted.flaw = Some(random.pick(&Flaw::ALL));
                // Of the other key there has to be one.
                let other = self.world.authority.issue(&["localhost"]);
                other.write(self.world.proxy.dir(), "other");
            }
        }
        let text = self.world.addresses.text(&wanted);
        self.world.proxy.rewrite_config(&text);
        let (applied, said) = match self.admin.reload().await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.world.ledger.broke(RELOADED, error.to_string());
                return;
            }
        };
        self.world.ledger.count(Count::Reloads { applied });
        self.world.ledger.met(match kind {
            Kind::Good => "another configuration",
            Kind::Certificate => "another certificate",
            Kind::Broken => "a broken configuration",
        });
        // Without descriptors a good one may be refused, too.
        let excused = !applied && self.world.ledger.was_short_since(began);
        if applied != (kind != Kind::Broken) && !excused {
            let how = format!("{kind:?} ({:?}): {applied}, {said}", wanted.flaw);
            self.world.ledger.broke(RELOADED, how);
        }
        if applied {
            self.choices = Choices {
                flaw: None,
                ..wanted
            };
            self.shown = shown;
        }
        if random.once_in(4) {
            self.look(began).await;
        }
    }

    /// What a client sees must be of the generation that was applied last.
    async fn look(&self, began: Instant) {
        let mark = self.choices.mark.to_string();
        let seen = match self.world.dial(Door::Plain).await {
            Ok(mut stream) => http::get(&mut stream, "/steady/look", "").await,
            Err(error) => Err(error),
        };
        let ledger = &self.world.ledger;
        if let Ok(answer) = &seen {
            ledger.request("steady", "GET", answer.head.status());
        }
        let right = matches!(&seen, Ok(answer) if answer.head.get("x-mark") == Some(&mark));
        if !right && !ledger.was_short_since(began) {
            let seen = seen.map(|answer| answer.head);
            ledger.broke(RELOADED, format!("mark {mark}: {seen:?}"));
        }
        let Some(expected) = &self.shown else {
            return;
        };
        match self.world.shown_certificate().await {
            Ok(shown) if shown == *expected => {}
            other if !ledger.was_short_since(began) => {
                let how = match other {
                    Ok(_) => "another certificate is shown".to_owned(),
                    Err(error) => error.to_string(),
                };
                ledger.broke(RELOADED, how);
            }
            _ => {}
        }
    }
}

const RELOADED: &str = "a good configuration serves from its reload on, and a broken one never";
