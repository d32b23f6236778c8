//! Which connections there may be: a bound for all together and one for each
//! client's address, and who makes room when they are reached.
//!
//! Connections that do nothing make room for those that come: beyond nine
//! tenths of all, or at the bound of their own address. So whoever opens many
//! and says nothing shuts nobody out, from the same address neither.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::activity::Activity;

/// Connections that are looked at to find the one that has been idle longest.
const LOOKED_AT: usize = 64;

/// One that has been idle for less is closed only when there is no room at all, or
/// for another of its own address: it may just be about to ask.
const IDLE_LEAST: Duration = Duration::from_millis(100);

/// The last connections, which only health, metrics and management may use: one
/// in so many, and no more than so many.
const RESERVE: (usize, usize) = (50, 64);

/// A client: its address, or its network where it has a whole one to choose
/// addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client(IpAddr);

impl Client {
    fn of(address: SocketAddr) -> Client {
        Client(match address.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let network = ip.to_bits() & !(u128::from(u64::MAX));
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

/// All connections of one server.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    most_per_client: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    /// As many as have connections.
    of_client: HashMap<Client, usize>,
}

#[derive(Debug)]
struct Entry {
    client: Client,
    activity: Arc<Activity>,
    /// Where it is in the table, for whoever leaves; [`GONE`] once it is not.
    at: Arc<AtomicUsize>,
}

const GONE: usize = usize::MAX;

/// A connection among the others, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    at: Arc<AtomicUsize>,
    reserved: bool,
}

impl Place {
    /// Whether it is one of the last, for health, metrics and management.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.crowd.table();
        let at = self.at.load(Ordering::Relaxed);
        if at != GONE {
            table.remove(at);
        }
    }
}

impl Crowd {
    /// At most `most` connections, and `most_per_client` of one address.
    pub(super) fn new(most: usize, most_per_client: usize) -> Crowd {
        Crowd {
            most,
            most_per_client,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Takes a connection in; `None` when there is no room for it, and nobody
    /// has been idle who could make some.
    pub(super) fn join(
        self: &Arc<Self>,
        address: SocketAddr,
        activity: &Arc<Activity>,
        now: Instant,
    ) -> Option<Place> {
        let client = Client::of(address);
        let mut table = self.table();
        let own = table.of_client.get(&client).copied().unwrap_or(0);
        if own >= self.most_per_client {
            if !table.evict(Some(client), Duration::ZERO, now) {
                return None;
            }
        } else if table.entries.len() >= self.most - self.most / 10 {
            table.evict(None, IDLE_LEAST, now);
        }
        let is_full = table.entries.len() >= self.most;
        if is_full && !table.evict(None, Duration::ZERO, now) {
            return None;
        }
        let count = table.entries.len();
        let (share, most) = RESERVE;
        let at = Arc::new(AtomicUsize::new(count));
        table.entries.push(Entry {
            client,
            activity: Arc::clone(activity),
            at: Arc::clone(&at),
        });
        *table.of_client.entry(client).or_default() += 1;
        Some(Place {
            crowd: Arc::clone(self),
            at,
            reserved: count >= self.most - (self.most / share).min(most),
        })
    }
}

impl Table {
    fn remove(&mut self, at: usize) {
        let entry = self.entries.swap_remove(at);
        entry.at.store(GONE, Ordering::Relaxed);
        if let Some(moved) = self.entries.get(at) {
            moved.at.store(at, Ordering::Relaxed);
        }
        if let Some(count) = self.of_client.get_mut(&entry.client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&entry.client);
            }
        }
    }

    /// Closes the connection that has been idle longest of some that it looks
    /// at; whether there was one.
    fn evict(&mut self, only: Option<Client>, least: Duration, now: Instant) -> bool {
        let count = self.entries.len();
        let looked_at = (0..count.min(LOOKED_AT)).map(|at| match count <= LOOKED_AT {
            true => at,
            false => rand::random_range(0..count),
        });
        let idle = looked_at.filter_map(|at| {
            let entry = &self.entries[at];
            let fits = only.is_none_or(|only| only == entry.client);
            let idle = entry.activity.idle_for(now)?;
            (fits && idle >= least).then_some((idle, at))
        });
        let Some((_, at)) = idle.max() else {
            return false;
        };
        self.entries[at].activity.evict();
        self.remove(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1))
    }

    struct Scene {
        crowd: Arc<Crowd>,
        began: Instant,
        all: Vec<(Arc<Activity>, Option<Place>)>,
    }

    impl Scene {
        fn new(most: usize, per_client: usize) -> Scene {
            Scene {
                crowd: Arc::new(Crowd::new(most, per_client)),
                began: Instant::now(),
                all: Vec::new(),
            }
        }

        /// One comes each second; whether it was let in.
        fn come(&mut self, from: SocketAddr) -> bool {
            let now = self.began + Duration::from_secs(self.all.len() as u64);
            let activity = Arc::new(Activity::begin(now));
            let place = self.crowd.join(from, &activity, now);
            self.all.push((activity, place));
            self.all.last().is_some_and(|(_, place)| place.is_some())
        }

        fn evicted(&self) -> Vec<usize> {
            let all = self.all.iter().enumerate();
            let evicted = all.filter(|(_, (activity, _))| activity.is_evicted());
            evicted.map(|(at, _)| at).collect()
        }

        fn count(&self) -> usize {
            self.crowd.table().entries.len()
        }
    }

    #[test]
    fn who_has_too_many_makes_room_for_itself_and_nobody_else() {
        let mut scene = Scene::new(100, 3);
        assert!(scene.come(address(1)));
        for _ in 0..5 {
            assert!(scene.come(address(2)));
        }
        assert_eq!(scene.evicted(), [1, 2], "the longest idle of its own");
        // One that is busy stays.
        let mut busy = Scene::new(100, 1);
        assert!(busy.come(address(1)));
        let running = busy.all[0].0.begin_request(false);
        assert!(!busy.come(address(1)));
        assert!(busy.come(address(2)));
        drop(running);
    }

    #[test]
    fn beyond_nine_tenths_the_longest_idle_make_room() {
        let mut scene = Scene::new(20, 20);
        for from in 0..30 {
            assert!(scene.come(address(from)));
        }
        assert_eq!(scene.count(), 18);
        assert_eq!(scene.evicted(), (0..12).collect::<Vec<_>>());
        // Whoever was evicted leaves no second time.
        scene.all.clear();
        assert_eq!(scene.count(), 0);
        assert!(scene.crowd.table().of_client.is_empty());
    }

    #[test]
    fn the_last_are_kept_for_management_and_none_comes_beyond() {
        let mut scene = Scene::new(100, 100);
        let mut running = Vec::new();
        for from in 0..100 {
            assert!(scene.come(address(from)));
            let (activity, place) = scene.all.last().expect("it came");
            running.push(activity.begin_request(false));
            let reserved = place.as_ref().is_some_and(Place::is_reserved);
            assert_eq!(reserved, from >= 98, "{from}");
        }
        assert!(!scene.come(address(200)));
    }

    #[test]
    fn a_network_of_addresses_is_one_client() {
        let of = |text: &str| Client::of(text.parse().expect("an address"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:2"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
    }
}
