//! Load interpretation: what was told of queues is as old as it is, so that calls
//! are shared out as if all that came since were water that fills them to one
//! level. M. Dahlin, "Interpreting stale load information", IEEE TPDS 11(10), 2000
//! (ICDCS 1999): "basic LI".
//!
//! ```text
//! p_i = c_i x max(0, level - q_i / c_i) / K,   level such that the p_i sum to 1
//! ```
//!
//! `q_i` are the calls that server i told of, `c_i` its cores, and `K` the calls
//! that come within the age of what was told, at least one. That rate is what
//! the servers complete: calls that run, divided by the run time (J. D. C. Little,
//! "A proof for the queuing formula L = λW", Operations Research 9(3), 1961).
//!
//! Mended: servers are unlike (`c_i` is not 1); our own calls since are known, and
//! not water; each word has its own age, and not all one; the way counts: a server
//! is deeper by the calls that it would end in the time of the round trip.
//! `faithful=true` leaves that out.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::servers::{self, EVERYWHERE, FAITHFUL, Own, in_flight, in_ms, ranked};
use super::{
    Candidate, Case, Decision, Field, Kind, LOOKED_AT, Origin, Policy, Reach, Reaches, Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "shares calls out as if all that came since peers told of their queues had filled them to one level",
    keys: &[FAITHFUL],
    build: |parameters| {
        Arc::new(StaleLi {
            faithful: parameters.flag("faithful"),
            own: Own::default(),
        })
    },
};

const NAME: &str = "stale-li";

/// Servers of one decision: those that it looks at, the one chosen last, and this.
const SERVERS_MAX: usize = LOOKED_AT + 2;

/// Least run time by which a rate is worked out, in milliseconds.
const MS_LEAST: f64 = 1.0;

/// A server, as it is filled.
#[derive(Debug, Clone, Copy, Default)]
struct Server {
    /// Its place; `None` for this node.
    place: Option<usize>,
    /// Its depth: calls for each core.
    calls: f64,
    cores: f64,
    /// Calls that come to it within the age of what it told.
    comes: f64,
}

struct StaleLi {
    faithful: bool,
    own: Own,
}

/// Servers that may take a call, and how they are filled.
#[derive(Debug, Default)]
struct Servers {
    all: [Server; SERVERS_MAX],
    count: usize,
    /// Calls that come to all of them.
    comes: f64,
}

impl Servers {
    fn add(&mut self, server: Server) {
        if let Some(slot) = self.all.get_mut(self.count) {
            // The shallowest first.
            *slot = server;
            let mut at = self.count;
            while at > 0 && self.all[at - 1].calls > self.all[at].calls {
                self.all.swap(at - 1, at);
                at -= 1;
            }
            self.count += 1;
            self.comes += server.comes;
        }
    }

    fn filled(&self) -> &[Server] {
        &self.all[..self.count]
    }

    /// To which level the water rises, and how much there is.
    fn level(&self) -> (f64, f64) {
        let water = self.comes.max(1.0);
        let (mut cores, mut below) = (0.0, 0.0);
        let mut level = 0.0;
        for (at, server) in self.filled().iter().enumerate() {
            cores += server.cores;
            below += server.cores * server.calls;
            level = (water + below) / cores;
            let next = self.filled().get(at + 1);
            if next.is_none_or(|next| level <= next.calls) {
                break;
            }
        }
        (level, water)
    }

    /// The server to which a draw in `0.0..1.0` falls.
    fn draw(&self, draw: f64) -> Option<Server> {
        let (level, water) = self.level();
        let mut left = draw * water;
        let mut last = None;
        for server in self.filled() {
            let share = share(server, level);
            if share <= 0.0 {
                break;
            }
            last = Some(*server);
            if left < share {
                break;
            }
            left -= share;
        }
        last
    }
}

/// How much of the water a server takes.
fn share(server: &Server, level: f64) -> f64 {
    server.cores * (level - server.calls).max(0.0)
}

impl StaleLi {
    fn server(&self, candidate: &Candidate<'_>, local: f64) -> Server {
        let load = candidate.peer.load();
        let service = candidate.seen_service().or(candidate.told_service());
        let service = service.map_or(local, in_ms).max(MS_LEAST);
        let comes = f64::from(load.running) * in_ms(candidate.age()) / service;
        let place = Some(candidate.place);
        match self.faithful {
            true => Server {
                place,
                calls: f64::from(load.running.saturating_add(load.waiting)),
                cores: 1.0,
                comes,
            },
            false => Server {
                place,
                calls: in_flight(candidate) + in_ms(candidate.peer.round_trip()) / service,
                cores: servers::cores(candidate),
                comes,
            },
        }
    }
}

impl Policy for StaleLi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        EVERYWHERE
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let local = case.snapshot.local.service.map_or(MS_LEAST, in_ms);
        let mut servers = Servers::default();
        if case.run_well_here().is_some() {
            servers.add(Server {
                place: None,
                calls: match self.faithful {
                    true => self.own.calls(),
                    false => self.own.in_flight(),
                },
                cores: match self.faithful {
                    true => 1.0,
                    false => self.own.cores(),
                },
                comes: 0.0,
            });
        }
        let view = case.snapshot.view;
        case.best_of(view.neighbours(), Reach::Horizontal, |candidate, terms| {
            let server = self.server(candidate, local);
            if terms.is_watched() {
                terms.put("depth_calls", server.calls);
                terms.put("comes_calls", server.comes);
            }
            servers.add(server);
            0
        });
        let draw = case.chance();
        match servers.draw(draw) {
            Some(Server {
                place: Some(place), ..
            }) => case.send(place, Reach::Horizontal),
            Some(Server { place: None, .. }) => Decision::Run,
            None => {
                let up = servers::cloud(case, |candidate, _| ranked(in_flight(candidate)));
                up.unwrap_or_else(|| servers::otherwise(case))
            }
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }
}

#[cfg(test)]
mod tests;
