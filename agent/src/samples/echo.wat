;; echo: answers with the body of the request. Protocol: stdio.
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)

  ;; 0: address and length of the piece; 8: bytes read or written; 64: the piece.
  (func (export "_start")
    (local $length i32)
    (local $written i32)
    (loop $next
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
        (then (call $proc_exit (i32.const 1))))
      (local.set $length (i32.load (i32.const 8)))
      (if (i32.eqz (local.get $length)) (then (return)))
      (local.set $written (i32.const 0))
      (loop $rest
        (i32.store (i32.const 0) (i32.add (i32.const 64) (local.get $written)))
        (i32.store (i32.const 4) (i32.sub (local.get $length) (local.get $written)))
        (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
          (then (call $proc_exit (i32.const 2))))
        (local.set $written (i32.add (local.get $written) (i32.load (i32.const 8))))
        (br_if $rest (i32.lt_u (local.get $written) (local.get $length))))
      (br $next))))
