//! Processor time and memory, as functions ask for them and nodes promise them.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an amount of processor or memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number of cores.
    #[error("{0:?} is not a share of processors: write cores (0.5) or millicores (500m)")]
    Cpu(String),
    /// Not a number of bytes.
    #[error("{0:?} is not an amount of memory: write bytes with a unit (128MiB, 128Mi, 64M, 1GiB)")]
    Memory(String),
}

/// A share of processors, in thousandths of one core.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Cpu(u32);

impl Cpu {
    /// No share at all.
    pub const ZERO: Cpu = Cpu(0);

    /// `count` thousandths of a core.
    pub const fn millicores(count: u32) -> Self {
        Cpu(count)
    }

    /// `count` whole cores.
    pub const fn cores(count: u32) -> Self {
        Cpu(count.saturating_mul(1000))
    }

    /// The share in thousandths of a core.
    pub const fn as_millicores(self) -> u32 {
        self.0
    }

    /// The share in cores.
    pub fn as_cores(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl FromStr for Cpu {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError::Cpu(text.chars().take(40).collect());
        let (digits, per_unit) = match text.strip_suffix('m') {
            Some(digits) => (digits, 1.0),
            None => (text, 1000.0),
        };
        let millicores = digits.parse::<f64>().map_err(|_| wrong())? * per_unit;
        // Written so that NaN fails too; a thousand cores is more than any node has.
        if !(1.0..=1e6).contains(&millicores) {
            return Err(wrong());
        }
        Ok(Cpu(millicores.round() as u32))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_cores())
    }
}

/// An amount of memory, in bytes.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Memory(u64);

/// Units by the text that follows the number; longest first, so that `MiB`
/// is not read as `B`. Small letters are Docker's, which counts in 1024s;
/// `k` is Kubernetes', and 1,000 there.
const UNITS: [(&str, u64); 19] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("kb", 1 << 10),
    ("mb", 1 << 20),
    ("gb", 1 << 30),
    ("k", 1_000),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("B", 1),
    ("b", 1),
];

impl Memory {
    /// Nothing.
    pub const ZERO: Memory = Memory(0);

    /// `count` bytes.
    pub const fn bytes(count: u64) -> Self {
        Memory(count)
    }

    /// `count` mebibytes.
    pub const fn mebibytes(count: u64) -> Self {
        Memory(count.saturating_mul(1 << 20))
    }

    /// The amount in bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError::Memory(text.chars().take(40).collect());
        let unit = UNITS
            .iter()
            .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)));
        let (digits, size) = unit.unwrap_or((text, 1));
        let bytes = digits.trim_end().parse::<f64>().map_err(|_| wrong())? * size as f64;
        if !(0.0..=1e15).contains(&bytes) {
            return Err(wrong());
        }
        Ok(Memory(bytes.round() as u64))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes != 0 && bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes != 0 && bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes != 0 && bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

/// What something holds or asks for: processor share and memory together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Processor share.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

impl Resources {
    /// Nothing.
    pub const ZERO: Resources = Resources {
        cpu: Cpu::ZERO,
        memory: Memory::ZERO,
    };

    /// Whether both parts are at most those of `room`.
    pub fn fits(self, room: Resources) -> bool {
        self.cpu <= room.cpu && self.memory <= room.memory
    }

    /// How often both parts fit into those of `room`.
    pub fn times_in(self, room: Resources) -> u32 {
        let cpu = room.cpu.0.checked_div(self.cpu.0).unwrap_or(u32::MAX);
        let memory = room.memory.0.checked_div(self.memory.0);
        let memory = memory.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        cpu.min(memory)
    }

    /// What `count` of it take together; saturates.
    pub fn times(self, count: u32) -> Resources {
        Resources {
            cpu: Cpu(self.cpu.0.saturating_mul(count)),
            memory: Memory(self.memory.0.saturating_mul(count.into())),
        }
    }

    /// What is left of `self` after taking `part`; `None` when it is not there.
    pub fn checked_sub(self, part: Resources) -> Option<Resources> {
        part.fits(self).then(|| self - part)
    }
}

impl Add for Resources {
    type Output = Resources;
    /// Saturates.
    fn add(self, other: Resources) -> Resources {
        Resources {
            cpu: Cpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_add(other.memory.0)),
        }
    }
}

impl Sub for Resources {
    type Output = Resources;
    /// # Panics
    /// When `other` does not fit into `self`: resources are never negative.
    fn sub(self, other: Resources) -> Resources {
        assert!(
            other.fits(self),
            "resources never go below zero: {self:?} - {other:?}"
        );
        Resources {
            cpu: Cpu(self.cpu.0 - other.cpu.0),
            memory: Memory(self.memory.0 - other.memory.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_docker_kubernetes_and_plain_units() {
        let check = |text: &str, bytes| assert_eq!(text.parse(), Ok(Memory(bytes)), "{text}");
        check("128MiB", 128 << 20);
        check("64Mi", 64 << 20);
        check("64M", 64_000_000);
        check("1.5GiB", 3 << 29);
        check("4096", 4096);
        check("10B", 10);
        check("128m", 128 << 20);
        check("1g", 1 << 30);
        check("64mb", 64 << 20);
        check("64MB", 64_000_000);
        check("5k", 5_000);
        check("10b", 10);
        for bad in ["", "MiB", "-1", "1e99", "NaN", "12 parsecs", "m", "1mm"] {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_reads_cores_and_millicores() {
        assert_eq!("0.5".parse(), Ok(Cpu(500)));
        assert_eq!("100m".parse(), Ok(Cpu(100)));
        assert_eq!("2".parse(), Ok(Cpu::cores(2)));
        for bad in ["", "0", "-1", "NaN", "inf", "1e9", "one"] {
            assert!(bad.parse::<Cpu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_print_as_they_are_read() {
        for memory in [
            Memory::mebibytes(64),
            Memory::bytes(1000),
            Memory::bytes(3 << 30),
        ] {
            assert_eq!(memory.to_string().parse(), Ok(memory));
        }
        assert_eq!(Cpu(250).to_string().parse(), Ok(Cpu(250)));
    }
}
