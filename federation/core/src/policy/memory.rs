//! What a policy remembers: a few numbers for each function, QoS class and
//! destination, in a table of a fixed size.
//!
//! Numbers are read and written with relaxed atomics, by many threads, without a
//! lock: between two of them another thread may have written, and the numbers of
//! one row may be of two moments. What a policy learns are estimates, which that
//! harms less than a lock would cost. What is published as a whole is a
//! [`Plan`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};
use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use super::learning::{ClassKey, Malformed, SAVED_BYTES_MAX};
use crate::facts::{FunctionKey, PeerKey};

/// Rows among which one is looked for: it lies in one of so many beside each
/// other, and takes the place of the one that was written longest ago.
const BESIDE: usize = 8;

/// What stands before a saved table: its format.
const FORMAT: u64 = 0x7765_6972_6d65_6d31;

/// Of what a row of a [`Memory`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Which {
    function: u64,
    class: u64,
    to: u64,
}

impl Which {
    /// Of the node as a whole.
    pub const NODE: Which = Which {
        function: 0,
        class: 0,
        to: 0,
    };

    /// Of a function, whatever the class, and wherever it runs.
    pub fn of(function: &FunctionName) -> Which {
        Which::by(FunctionKey::of(function))
    }

    /// The same, by its key.
    pub fn by(function: FunctionKey) -> Which {
        Which {
            function: function.as_u64(),
            ..Which::NODE
        }
    }

    /// Of calls of a QoS class.
    pub fn class(self, class: ClassKey) -> Which {
        Which {
            class: class.as_u64(),
            ..self
        }
    }

    /// Of a destination; `None` is here.
    pub fn at(self, to: Option<&PeerId>) -> Which {
        match to {
            Some(peer) => self.to_peer(PeerKey::of(peer)),
            None => Which { to: 1, ..self },
        }
    }

    /// The same, by a peer's key.
    pub fn to_peer(self, peer: PeerKey) -> Which {
        // What is less is no peer's, but by chance.
        let to = peer.as_u64().max(2);
        Which { to, ..self }
    }

    /// The numbers that stand for its function and its class: what is told to
    /// others, and read again with [`Which::told`].
    pub(super) fn numbers(self) -> [u64; 2] {
        [self.function, self.class]
    }

    /// Of the function and the class that another node named so.
    pub(super) fn told([function, class]: [u64; 2]) -> Which {
        Which {
            function,
            class,
            to: 0,
        }
    }

    /// A part of it, by what its policy tells apart beside all that.
    pub fn part(self, part: u64) -> Which {
        // The golden ratio's share of 2^64, as in `facts::PeerKey`.
        let part = part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Which {
            class: self.class ^ part,
            ..self
        }
    }

    /// A number of it that is never 0.
    fn mixed(self) -> u64 {
        let mut mixed = self.function ^ self.class.rotate_left(21) ^ self.to.rotate_left(42);
        // The end of SplitMix64, as in `snapshot::Draws`.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

/// A number that many threads read and write; none until the first is written.
#[derive(Debug)]
pub struct Cell(AtomicU64);

impl Default for Cell {
    fn default() -> Cell {
        Cell(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Cell {
    /// The number, if one was written.
    pub fn get(&self) -> Option<f64> {
        let number = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!number.is_nan()).then_some(number)
    }

    /// Writes a number; one that is none forgets it.
    pub fn set(&self, number: f64) {
        self.0.store(number.to_bits(), Ordering::Relaxed);
    }

    /// Forgets it.
    pub fn clear(&self) {
        self.set(f64::NAN);
    }

    /// Adds to it, from 0 where there is none, and returns the sum.
    pub fn add(&self, amount: f64) -> f64 {
        self.change(|number| number.unwrap_or(0.0) + amount)
    }

    /// Moves it by a share, in `0.0..=1.0`, towards a sample, and returns it: an
    /// exponentially weighted average. The first sample counts as a whole.
    pub fn blend(&self, sample: f64, share: f64) -> f64 {
        self.change(|number| match number {
            Some(number) => number + (sample - number) * share,
            None => sample,
        })
    }

    /// Takes what `change` makes of it, and returns that.
    pub fn change(&self, change: impl Fn(Option<f64>) -> f64) -> f64 {
        let mut new = f64::NAN;
        let next = |bits: u64| {
            let number = f64::from_bits(bits);
            new = change((!number.is_nan()).then_some(number));
            Some(new.to_bits())
        };
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        new
    }
}

#[derive(Debug)]
struct Row<const N: usize> {
    /// [`Which::mixed`]; 0 where the row is free.
    key: AtomicU64,
    function: AtomicU64,
    class: AtomicU64,
    to: AtomicU64,
    /// When it was looked for to be written, in seconds.
    written: AtomicU32,
    cells: [Cell; N],
}

impl<const N: usize> Row<N> {
    fn new() -> Row<N> {
        Row {
            key: AtomicU64::new(0),
            function: AtomicU64::new(0),
            class: AtomicU64::new(0),
            to: AtomicU64::new(0),
            written: AtomicU32::new(0),
            cells: std::array::from_fn(|_| Cell::default()),
        }
    }

    /// Of what it is; `None` where it is free, or is being given to another.
    fn which(&self) -> Option<Which> {
        let which = Which {
            function: self.function.load(Ordering::Relaxed),
            class: self.class.load(Ordering::Relaxed),
            to: self.to.load(Ordering::Relaxed),
        };
        let key = self.key.load(Ordering::Relaxed);
        (key != 0 && which.mixed() == key).then_some(which)
    }

    fn give_to(&self, which: Which) {
        for cell in &self.cells {
            cell.clear();
        }
        self.function.store(which.function, Ordering::Relaxed);
        self.class.store(which.class, Ordering::Relaxed);
        self.to.store(which.to, Ordering::Relaxed);
    }
}

/// A table of `N` numbers for each of what a policy tells apart. Of more than it
/// has room for, those are forgotten that were written longest ago.
///
/// Nothing is allocated until the first row is written, and nothing after that.
#[derive(Debug)]
pub struct Memory<const N: usize> {
    rows: OnceLock<Box<[Row<N>]>>,
    count: usize,
}

impl<const N: usize> Memory<N> {
    /// A table with room for about so many rows; at least 8, and a power of two.
    pub fn new(rows: usize) -> Memory<N> {
        Memory {
            rows: OnceLock::new(),
            count: rows.max(BESIDE).next_power_of_two(),
        }
    }

    /// The most rows that it has.
    pub fn capacity(&self) -> usize {
        self.count
    }

    /// The row of this, if there is one. Allocates nothing.
    pub fn find(&self, which: Which) -> Option<&[Cell; N]> {
        let rows = self.rows.get()?;
        let key = which.mixed();
        let mut beside = self.beside(rows, key);
        let row = beside.find(|row| row.key.load(Ordering::Relaxed) == key)?;
        Some(&row.cells)
    }

    /// The row of this, to be written; a new one where there is none.
    pub fn entry(&self, which: Which, now: Time) -> &[Cell; N] {
        self.row_in(self.all(), which, now)
    }

    /// The same for decisions, which allocate nothing: `None` before the first row
    /// was written, unless the table was [opened](Memory::open).
    pub fn entry_if_open(&self, which: Which, now: Time) -> Option<&[Cell; N]> {
        Some(self.row_in(self.rows.get()?, which, now))
    }

    /// Allocates the table, which the first row does otherwise.
    pub fn open(&self) {
        self.all();
    }

    fn all(&self) -> &[Row<N>] {
        self.rows.get_or_init(|| {
            let rows = (0..self.count).map(|_| Row::new());
            rows.collect()
        })
    }

    fn row_in<'a>(&self, rows: &'a [Row<N>], which: Which, now: Time) -> &'a [Cell; N] {
        let key = which.mixed();
        let seconds = now.since(Time::ZERO).as_secs();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut beside = self.beside(rows, key);
        if let Some(row) = beside.find(|row| row.key.load(Ordering::Relaxed) == key) {
            row.written.store(seconds, Ordering::Relaxed);
            return &row.cells;
        }
        // A free one, or the oldest. Two threads that take one row at once write
        // over each other: one of them is found later, the other learned in vain.
        let age = |row: &&Row<N>| match row.key.load(Ordering::Relaxed) {
            0 => (0, 0),
            _ => (1, row.written.load(Ordering::Relaxed)),
        };
        let row = self.beside(rows, key).min_by_key(age);
        let row = row.expect("a table has rows");
        row.give_to(which);
        row.written.store(seconds, Ordering::Relaxed);
        row.key.store(key, Ordering::Relaxed);
        &row.cells
    }

    /// Forgets the row of this.
    pub fn forget(&self, which: Which) {
        let key = which.mixed();
        let Some(rows) = self.rows.get() else { return };
        for row in self.beside(rows, key) {
            if row.key.load(Ordering::Relaxed) == key {
                row.key.store(0, Ordering::Relaxed);
            }
        }
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Which, &[Cell; N])> {
        let rows = self.rows.get().into_iter().flatten();
        rows.filter_map(|row| Some((row.which()?, &row.cells)))
    }

    fn beside<'a>(&self, rows: &'a [Row<N>], key: u64) -> impl Iterator<Item = &'a Row<N>> {
        let last = self.count - 1;
        // The upper bits are as mixed as the lower ones.
        let from = usize::try_from(key >> 32).unwrap_or(0);
        (0..BESIDE).map(move |step| &rows[from.wrapping_add(step) & last])
    }

    /// Its rows as bytes, those that were written last first, as many as
    /// [`SAVED_BYTES_MAX`] holds. `None` where there are none.
    pub fn save(&self) -> Option<Vec<u8>> {
        let mut rows: Vec<(u32, Which, [f64; N])> = Vec::new();
        for row in self.rows.get()? {
            let Some(which) = row.which() else { continue };
            let numbers = std::array::from_fn(|at| row.cells[at].get().unwrap_or(f64::NAN));
            rows.push((row.written.load(Ordering::Relaxed), which, numbers));
        }
        rows.sort_unstable_by_key(|(written, which, _)| (std::cmp::Reverse(*written), *which));
        let each = (3 + N).saturating_mul(8);
        rows.truncate(SAVED_BYTES_MAX.saturating_sub(16) / each);
        let mut bytes = Vec::with_capacity(rows.len().saturating_mul(each).saturating_add(16));
        let mut put = |number: u64| bytes.extend(number.to_le_bytes());
        put(FORMAT);
        put(N as u64);
        for (_, which, numbers) in &rows {
            put(which.function);
            put(which.class);
            put(which.to);
            for number in numbers {
                put(number.to_bits());
            }
        }
        (!rows.is_empty()).then_some(bytes)
    }

    /// Takes what [`Memory::save`] wrote, of this version or another: rows of
    /// what nobody asks for are forgotten in time.
    ///
    /// # Errors
    /// When it did not write that; then nothing is taken.
    pub fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        let (numbers, rest) = saved.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let is_ours = saved.len() <= SAVED_BYTES_MAX
            && rest.is_empty()
            && numbers.next() == Some(FORMAT)
            && numbers.next() == Some(N as u64)
            && numbers.len().is_multiple_of(3 + N);
        if !is_ours {
            return Err(Malformed);
        }
        let numbers: Vec<u64> = numbers.collect();
        // The last written last, so that those stay.
        for row in numbers.chunks_exact(3 + N).rev() {
            let which = Which {
                function: row[0],
                class: row[1],
                to: row[2],
            };
            for (cell, bits) in self.entry(which, now).iter().zip(&row[3..]) {
                let number = f64::from_bits(*bits);
                cell.set(if number.is_finite() { number } else { f64::NAN });
            }
        }
        Ok(())
    }
}

/// What a policy worked out off the path of calls, and decides by until it has
/// worked out another: shares of a linear program, a table of weights, a ring.
#[derive(Debug)]
pub struct Plan<T>(ArcSwapOption<T>);

impl<T> Default for Plan<T> {
    fn default() -> Plan<T> {
        Plan(ArcSwapOption::empty())
    }
}

impl<T> Plan<T> {
    /// Takes the place of the one before.
    pub fn publish(&self, plan: T) {
        self.0.store(Some(Arc::new(plan)));
    }

    /// The newest; `None` before the first. Waits for nobody and allocates
    /// nothing.
    pub fn current(&self) -> Guard<Option<Arc<T>>> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests;
