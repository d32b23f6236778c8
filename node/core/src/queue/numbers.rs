//! A set of small numbers, in order: one bit each, and one for each word of bits
//! that has any.

const BITS: usize = u64::BITS as usize;

#[derive(Debug, Default)]
pub(super) struct Numbers {
    words: Vec<u64>,
    /// Which words are not zero.
    filled: Vec<u64>,
    len: usize,
}

impl Numbers {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, number: usize) {
        let word = number / BITS;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
            self.filled.resize(word / BITS + 1, 0);
        }
        let bit = 1 << (number % BITS);
        self.len += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
        self.filled[word / BITS] |= 1 << (word % BITS);
    }

    pub(super) fn remove(&mut self, number: usize) {
        let at = number / BITS;
        let Some(word) = self.words.get_mut(at) else {
            return;
        };
        let bit = 1 << (number % BITS);
        self.len -= usize::from(*word & bit != 0);
        *word &= !bit;
        if *word == 0 {
            self.filled[at / BITS] &= !(1 << (at % BITS));
        }
    }

    /// The least that is at least `from`.
    fn at_least(&self, from: usize) -> Option<usize> {
        let word = from / BITS;
        let rest = self.words.get(word)? & (u64::MAX << (from % BITS));
        if rest != 0 {
            return Some(word * BITS + rest.trailing_zeros() as usize);
        }
        let next = word + 1;
        let mut at = next / BITS;
        let mut filled = self.filled.get(at)? & (u64::MAX << (next % BITS));
        while filled == 0 {
            at += 1;
            filled = *self.filled.get(at)?;
        }
        let word = at * BITS + filled.trailing_zeros() as usize;
        Some(word * BITS + self.words[word].trailing_zeros() as usize)
    }

    /// The one after `last`, or the first where there is none or `last` is
    /// `None`.
    pub(super) fn after(&self, last: Option<usize>) -> Option<usize> {
        let next = last.and_then(|last| self.at_least(last + 1));
        next.or_else(|| self.at_least(0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_in_order_and_over_again(
            steps in prop::collection::vec((any::<bool>(), 0..9_usize, 0..1000_usize), 0..100),
        ) {
            let (mut numbers, mut model) = (Numbers::default(), BTreeSet::new());
            for (inserts, far, near) in steps {
                let number = far * 1000 + near;
                match inserts {
                    true => {
                        numbers.insert(number);
                        model.insert(number);
                    }
                    false => {
                        let one = model.range(number..).next().copied().unwrap_or(number);
                        numbers.remove(one);
                        model.remove(&one);
                    }
                }
                prop_assert_eq!(numbers.len(), model.len());
                let after = model.range(number + 1..).next().or(model.first());
                prop_assert_eq!(numbers.after(Some(number)), after.copied());
                prop_assert_eq!(numbers.after(None), model.first().copied());
            }
        }
    }
}
