//! What is promised: processor share and memory held, against a capacity.

use crate::resources::Resources;

/// The book of what is held. The sum never exceeds the capacity, and nothing
/// is given back that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    capacity: Resources,
    held: Resources,
}

impl Ledger {
    /// Opens an empty book.
    pub fn new(capacity: Resources) -> Self {
        Ledger {
            capacity,
            held: Resources::ZERO,
        }
    }

    /// All there is.
    pub fn capacity(&self) -> Resources {
        self.capacity
    }

    /// What is promised now.
    pub fn held(&self) -> Resources {
        self.held
    }

    /// What could still be promised.
    pub fn free(&self) -> Resources {
        self.capacity - self.held
    }

    /// Promises `part`, or changes nothing and answers `false` when less is free.
    #[must_use]
    pub fn hold(&mut self, part: Resources) -> bool {
        let fits = part.fits(self.free());
        if fits {
            self.held = self.held + part;
        }
        fits
    }

    /// Takes a promise back.
    ///
    /// # Panics
    /// When more is given back than is held.
    pub fn release(&mut self, part: Resources) {
        self.held = self.held - part;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resources::{Cpu, Memory};

    fn amount(cpu: u32, memory: u64) -> Resources {
        Resources {
            cpu: Cpu::millicores(cpu),
            memory: Memory::bytes(memory),
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut ledger = Ledger::new(amount(1000, 100));
        assert!(ledger.hold(amount(500, 100)));
        let before = ledger.clone();
        assert!(!ledger.hold(amount(500, 1)));
        assert!(!ledger.hold(amount(501, 0)));
        assert!(!ledger.hold(amount(u32::MAX, u64::MAX)));
        assert_eq!(ledger, before);
    }

    proptest! {
        #[test]
        fn held_is_the_sum_of_promises_and_within_capacity(
            steps in prop::collection::vec((any::<bool>(), 0u32..600, 0u64..60), 0..200)
        ) {
            let mut ledger = Ledger::new(amount(1000, 100));
            let mut promises = Vec::new();
            for (give_back, cpu, memory) in steps {
                if give_back {
                    if let Some(part) = promises.pop() {
                        ledger.release(part);
                    }
                } else if ledger.hold(amount(cpu, memory)) {
                    promises.push(amount(cpu, memory));
                }
                let sum = promises.iter().fold(Resources::ZERO, |sum, part| sum + *part);
                prop_assert_eq!(ledger.held(), sum);
                prop_assert!(sum.fits(ledger.capacity()));
            }
        }
    }
}
