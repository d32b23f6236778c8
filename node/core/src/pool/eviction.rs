//! Who makes room: which idle instances stop so that a call of another function
//! can run.

use crate::resources::Resources;

use super::instances::{Instance, Phase};
use super::{FunctionKey, InstanceId, Pool};

/// Which idle instances may be stopped to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Those of other functions for which nobody waits, beyond their minimum.
    Surplus,
    /// All but the one that the call would use, kept ones included: nothing
    /// runs, starts or stops, so that no room would ever come by itself.
    LastResort,
}

impl Pool {
    /// Stops idle instances, those of least value first, until `key` can get
    /// one more call on its way; none when that would not be enough.
    pub fn make_room(&mut self, key: FunctionKey, eviction: Eviction) {
        let Some(function) = self.functions.get(key.0) else {
            return;
        };
        let used = function.available.last().copied();
        let needs = match used {
            Some(_) => function.profile.call,
            None => function.profile.instance + function.profile.call,
        };
        let room = self.ledger.free() + self.stopping_hold;
        // A node short of processors asks this at every release; it must not
        // look through its instances for what they do not hold.
        if needs.fits(room) || !needs.fits(room + self.standing_hold) {
            return;
        }
        let candidates = self.evictable(key, used, eviction);
        for (worth, id, of) in self.chosen(candidates, eviction, needs, room) {
            self.age = self.age.max(worth);
            self.retire(id);
            self.note_lacking(of);
        }
    }

    /// What each idle instance is worth that may be stopped for `key`, which would
    /// use the instance `used`; the least first.
    fn evictable(
        &self,
        key: FunctionKey,
        used: Option<InstanceId>,
        eviction: Eviction,
    ) -> Vec<(u64, InstanceId)> {
        let mut candidates: Vec<(u64, InstanceId)> = Vec::new();
        for (instance_key, instance) in self.instances.iter() {
            let id = InstanceId(instance_key.to_bits());
            let idle = instance.phase == Phase::Ready && instance.running == 0;
            if !idle || instance.holds == Resources::ZERO {
                continue;
            }
            let of = self
                .functions
                .get(instance.function.0)
                .expect("ready is current");
            let may_go = match eviction {
                Eviction::Surplus => instance.function != key && of.waiting == 0,
                Eviction::LastResort => Some(id) != used,
            };
            if may_go {
                candidates.push((value(instance, of.uses), id));
            }
        }
        candidates.sort_unstable();
        candidates
    }

    /// As many of the candidates as are needed beside the `room` that there is;
    /// none when all of them are not enough. Functions keep their minimum unless it
    /// is the last resort.
    fn chosen(
        &self,
        candidates: Vec<(u64, InstanceId)>,
        eviction: Eviction,
        needs: Resources,
        mut room: Resources,
    ) -> Vec<(u64, InstanceId, FunctionKey)> {
        let mut chosen: Vec<(u64, InstanceId, FunctionKey)> = Vec::new();
        for (worth, id) in candidates {
            let instance = self.instances.get(id.key()).expect("just seen");
            let of = self
                .functions
                .get(instance.function.0)
                .expect("ready is current");
            if eviction == Eviction::Surplus && of.profile.min_instances > 0 {
                let leaving = chosen
                    .iter()
                    .filter(|(_, _, f)| *f == instance.function)
                    .count();
                if of.live() as usize - leaving <= of.profile.min_instances as usize {
                    continue;
                }
            }
            room = room + instance.holds;
            chosen.push((worth, id, instance.function));
            if needs.fits(room) {
                return chosen;
            }
        }
        Vec::new()
    }
}

/// What keeping an idle instance is worth: see the module's first page. Cost in
/// nanoseconds, size in mebibytes; one that holds no memory counts as its
/// processor share, a core like a gibibyte.
fn value(instance: &Instance, uses: u64) -> u64 {
    let Resources { cpu, memory } = instance.holds;
    let size = (memory.as_bytes() >> 20)
        .max(u64::from(cpu.as_millicores()))
        .max(1);
    let cost = u64::try_from(instance.start_cost.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    instance
        .age
        .saturating_add(uses.max(1).saturating_mul(cost) / size)
}
