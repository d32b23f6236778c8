//! The settings that compiled code depends on, shared by engine and compiler.
//!
//! wasmtime refuses code that was compiled under other settings, so the
//! compiling child is told exactly these, and checks that they lead to the
//! fingerprint that the engine has.

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmparser::WasmFeatures;

/// What guests may use of WebAssembly: the one list by which an upload is
/// checked, the compiler set up and the engine run. WebAssembly 3.0 and
/// components, without threads: a call has one.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::COMPONENT_MODEL)
    .difference(WasmFeatures::THREADS);

/// What is off, with the name that people know it by.
pub(crate) const OFF: [(&str, WasmFeatures); 8] = [
    (
        "threads and shared memory (build without -pthread)",
        WasmFeatures::THREADS.union(WasmFeatures::SHARED_EVERYTHING_THREADS),
    ),
    (
        "exceptions in their old form (build with -wasm-use-legacy-eh=false)",
        WasmFeatures::LEGACY_EXCEPTIONS,
    ),
    ("stack switching", WasmFeatures::STACK_SWITCHING),
    ("custom page sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
    ("memory control", WasmFeatures::MEMORY_CONTROL),
    ("wide arithmetic", WasmFeatures::WIDE_ARITHMETIC),
    (
        "asynchronous components (WASI 0.3; build for WASI 0.2)",
        WasmFeatures::CM_ASYNC
            .union(WasmFeatures::CM_ASYNC_STACKFUL)
            .union(WasmFeatures::CM_MORE_ASYNC_BUILTINS)
            .union(WasmFeatures::CM_THREADING)
            .union(WasmFeatures::CM_ERROR_CONTEXT),
    ),
    (
        "components with 64-bit memories, maps or garbage collected values",
        WasmFeatures::CM64
            .union(WasmFeatures::CM_MAP)
            .union(WasmFeatures::CM_GC)
            .union(WasmFeatures::CM_FIXED_LENGTH_LISTS)
            .union(WasmFeatures::CM_IMPLEMENTS),
    ),
];

/// Memories and tables that one module may define: what a slot of the pool
/// has for it.
pub(crate) const MEMORIES_PER_MODULE: u32 = 4;
pub(crate) const TABLES_PER_MODULE: u32 = 4;

/// Elements of one table; CPython's has some ten thousand.
pub(crate) const TABLE_ELEMENTS: u32 = 64 << 10;

/// Frames of a trap's backtrace that reach the function's log: enough to see
/// where it was, few enough not to fill the log.
const BACKTRACE_FRAMES: usize = 16;

/// How linear memories lie in the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Address space set aside for each memory. From 4 GiB on, guests run
    /// without explicit bounds checks.
    pub(crate) reservation_bytes: u64,
    /// Unmapped bytes behind each memory that catch small overruns.
    pub(crate) guard_bytes: u64,
    /// Whether a growing memory may be moved; pooled ones never are.
    pub(crate) may_move: bool,
}

/// The whole range of a 32-bit memory: no access needs a bounds check.
pub(crate) const FULL_RESERVATION: u64 = 4 << 30;

impl Tuning {
    /// wasmtime's own choice for 64-bit hosts with plenty of address space.
    pub(crate) const ROOMY: Tuning = Tuning {
        reservation_bytes: FULL_RESERVATION,
        guard_bytes: 32 << 20,
        may_move: false,
    };

    /// For address spaces too small for roomy slots: a slot is as long as the
    /// largest memory a function may have.
    pub(crate) fn tight(max_memory_bytes: u64) -> Tuning {
        Tuning {
            reservation_bytes: max_memory_bytes
                .next_multiple_of(64 << 10)
                .min(FULL_RESERVATION),
            guard_bytes: 64 << 10,
            may_move: false,
        }
    }

    /// Reserves nothing ahead: the last resort.
    pub(crate) const ON_DEMAND: Tuning = Tuning {
        reservation_bytes: 0,
        guard_bytes: 64 << 10,
        may_move: true,
    };

    /// The wasmtime settings, all but how instances are allocated.
    pub(crate) fn config(&self) -> wasmtime::Config {
        let mut config = wasmtime::Config::new();
        config
            .wasm_features(FEATURES, true)
            .wasm_features(FEATURES.complement(), false)
            .epoch_interruption(true)
            .memory_reservation(self.reservation_bytes)
            .memory_reservation_for_growth(if self.may_move { 1 << 20 } else { 0 })
            .memory_guard_size(self.guard_bytes)
            .memory_may_move(self.may_move)
            // Frame pointers are enough for backtraces; unwind tables would be
            // registered with the C library at each load, and an address map
            // enlarges every artifact for offsets that nobody reads.
            .native_unwind_info(false)
            .generate_address_map(false)
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES));
        config
    }

    /// As words for a command line; see [`Tuning::parse`].
    pub(crate) fn words(&self) -> [String; 3] {
        [
            self.reservation_bytes.to_string(),
            self.guard_bytes.to_string(),
            u8::from(self.may_move).to_string(),
        ]
    }

    /// What [`Tuning::words`] wrote.
    pub(crate) fn parse(words: [&str; 3]) -> Option<Tuning> {
        Some(Tuning {
            reservation_bytes: words[0].parse().ok()?,
            guard_bytes: words[1].parse().ok()?,
            may_move: words[2] == "1",
        })
    }
}

/// Names the code that `engine` can load: other versions, settings and CPU
/// features give other fingerprints.
pub(crate) fn fingerprint(engine: &wasmtime::Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuning_survives_a_command_line() {
        for tuning in [Tuning::ROOMY, Tuning::tight(100_000), Tuning::ON_DEMAND] {
            let words = tuning.words();
            assert_eq!(
                Tuning::parse([&words[0], &words[1], &words[2]]),
                Some(tuning)
            );
        }
    }

    #[test]
    fn fingerprint_tells_settings_apart() {
        let fingerprint_of = |tuning: Tuning| {
            let engine = wasmtime::Engine::new(&tuning.config()).expect("settings are valid");
            fingerprint(&engine)
        };
        assert_eq!(fingerprint_of(Tuning::ROOMY), fingerprint_of(Tuning::ROOMY));
        assert_ne!(
            fingerprint_of(Tuning::ROOMY),
            fingerprint_of(Tuning::ON_DEMAND)
        );
    }
}
