;; hello: greets whom the body names, or else the query, or else the world, and
;; says so in a header of its own. Protocol: cgi.
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get"
    (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get"
    (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 4)

  ;; 0: pieces to read or write; 32: bytes read or written; 40, 44: sizes of the
  ;; environment; 65536: the body; 131072: the environment.
  (data (i32.const 256)
    "Status: 200\nContent-Type: text/plain; charset=utf-8\nX-Greeting: hello\n\nHello, ")
  (data (i32.const 512) "world")
  (data (i32.const 528) "!\n")
  (data (i32.const 544) "QUERY_STRING=")

  (func $write (param $from i32) (param $length i32)
    (loop $rest
      (if (i32.eqz (local.get $length)) (then (return)))
      (i32.store (i32.const 0) (local.get $from))
      (i32.store (i32.const 4) (local.get $length))
      (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))
        (then (call $proc_exit (i32.const 1))))
      (local.set $from (i32.add (local.get $from) (i32.load (i32.const 32))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 32))))
      (br $rest)))

  ;; Up to 1024 bytes of the body, at 65536; returns how many.
  (func $body (result i32)
    (local $length i32)
    (loop $next
      (i32.store (i32.const 0) (i32.add (i32.const 65536) (local.get $length)))
      (i32.store (i32.const 4) (i32.sub (i32.const 1024) (local.get $length)))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32))
        (then (call $proc_exit (i32.const 2))))
      (local.set $length (i32.add (local.get $length) (i32.load (i32.const 32))))
      (br_if $next (i32.and
        (i32.ne (i32.load (i32.const 32)) (i32.const 0))
        (i32.lt_u (local.get $length) (i32.const 1024)))))
    (local.get $length))

  ;; The address of the query in the environment; 0 when there is none.
  (func $query (result i32)
    (local $entry i32)
    (local $end i32)
    (local $at i32)
    (if (call $environ_sizes_get (i32.const 40) (i32.const 44))
      (then (return (i32.const 0))))
    ;; The pointers and the text share two pages; a larger environment is not read.
    (if (i32.gt_u
          (i32.add (i32.mul (i32.load (i32.const 40)) (i32.const 4)) (i32.load (i32.const 44)))
          (i32.const 131072))
      (then (return (i32.const 0))))
    (local.set $entry (i32.const 131072))
    (local.set $end
      (i32.add (i32.const 131072) (i32.mul (i32.load (i32.const 40)) (i32.const 4))))
    (if (call $environ_get (i32.const 131072) (local.get $end))
      (then (return (i32.const 0))))
    (block $none
      (loop $next
        (br_if $none (i32.ge_u (local.get $entry) (local.get $end)))
        (local.set $at (i32.const 0))
        (block $other
          (loop $letter
            (br_if $other (i32.ne
              (i32.load8_u (i32.add (i32.load (local.get $entry)) (local.get $at)))
              (i32.load8_u (i32.add (i32.const 544) (local.get $at)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $letter (i32.lt_u (local.get $at) (i32.const 13))))
          (return (i32.add (i32.load (local.get $entry)) (i32.const 13))))
        (local.set $entry (i32.add (local.get $entry) (i32.const 4)))
        (br $next)))
    (i32.const 0))

  (func $length (param $text i32) (result i32)
    (local $length i32)
    (loop $next
      (if (i32.eqz (i32.load8_u (i32.add (local.get $text) (local.get $length))))
        (then (return (local.get $length))))
      (local.set $length (i32.add (local.get $length) (i32.const 1)))
      (br $next))
    (unreachable))

  (func (export "_start")
    (local $whom i32)
    (local $length i32)
    (local.set $whom (i32.const 65536))
    (local.set $length (call $body))
    (if (i32.eqz (local.get $length))
      (then
        (local.set $whom (call $query))
        (if (local.get $whom)
          (then (local.set $length (call $length (local.get $whom)))))))
    (if (i32.eqz (local.get $length))
      (then
        (local.set $whom (i32.const 512))
        (local.set $length (i32.const 5))))
    (call $write (i32.const 256) (i32.const 78))
    (call $write (local.get $whom) (local.get $length))
    (call $write (i32.const 528) (i32.const 2))))
