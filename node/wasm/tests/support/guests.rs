//! Guests in text form. Each has one page of memory at least and imports
//! what it needs.

/// Copies standard input to standard output.
pub(crate) const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
        (then unreachable))
      (if (i32.load (i32.const 8))
        (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))
            (then unreachable))
          (br $more))))))"#;

/// Runs for ever.
pub(crate) const LOOP: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again))))"#;

/// Grows its memory until it is refused, then traps, as a failed `malloc` does.
pub(crate) const MEMORY_BOMB: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start")
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable))"#;

/// Has 100 MiB from the start.
pub(crate) const LARGE: &str =
    r#"(module (memory (export "memory") 1600) (func (export "_start")))"#;

/// Writes for ever to the file descriptor that is put for `FD`.
const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (loop $more
      (br_if $more (i32.eqz
        (call $write (i32.const FD) (i32.const 0) (i32.const 1) (i32.const 8)))))))"#;

pub(crate) fn output_flood() -> String {
    FLOOD.replace("FD", "1")
}

pub(crate) fn log_flood() -> String {
    FLOOD.replace("FD", "2")
}

/// Writes `text` to `descriptor`, then does `after`.
pub(crate) fn say(descriptor: u32, text: &str, after: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let length = text.len();
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "{escaped}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const {length}))
    (drop (call $write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8)))
    {after}))"#
    )
}

/// For [`say`]: sleeps for ten minutes.
pub(crate) const SLEEP: &str = r#"
    ;; A subscription to the clock at 96: kind at 104, clock at 112, time at 120.
    (i32.store8 (i32.const 104) (i32.const 0))
    (i32.store (i32.const 112) (i32.const 1))
    (i64.store (i32.const 120) (i64.const 600000000000))
    (drop (call $poll (i32.const 96) (i32.const 200) (i32.const 1) (i32.const 300)))"#;

/// Writes its environment, each variable with a final NUL.
pub(crate) const ENVIRONMENT: &str = r#"(module
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $get (i32.const 1024) (i32.const 8192)))
    (i32.store (i32.const 0) (i32.const 8192))
    (i32.store (i32.const 4) (i32.load (i32.const 20)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Writes the secret `key`, found in the first directory that it is given.
pub(crate) const SECRET: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 512) "key")
  (func (export "_start") (local $error i32)
    ;; For reading and writing first, which must be refused.
    (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3)
          (i32.const 0) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
      (then (call $exit (i32.const 9))))
    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3)
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
    (if (local.get $error) (then (call $exit (local.get $error))))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 100))
    (drop (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
