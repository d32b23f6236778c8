//! A `wasi:http` component in text form.

/// Bytes that [`PIECE`] sends.
pub(crate) const PIECE_BYTES: usize = 4_096;

/// Sets the answer's head, status 200, and leaves its body's stream open.
pub(crate) const BEGIN: &str = r#"
    (local.set $response (call $response (call $fields)))
    (call $body (local.get $response) (i32.const 16))
    (local.set $body (i32.load (i32.const 20)))
    (call $write (local.get $body) (i32.const 16))
    (local.set $stream (i32.load (i32.const 20)))
    (call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
      (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"#;

/// Sends one piece of the body; traps when nobody reads it.
pub(crate) const PIECE: &str = r#"
    (call $send (local.get $stream) (i32.const 4096) (i32.const 4096) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then unreachable))"#;

/// Finishes the body.
pub(crate) const FINISH: &str = r#"
    (call $drop-stream (local.get $stream))
    (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 16))"#;

/// Gives the body up instead.
pub(crate) const ABANDON: &str = r#"
    (call $drop-stream (local.get $stream))
    (call $drop-body (local.get $body))"#;

/// A component whose handler does `steps`.
pub(crate) fn component(steps: &str) -> String {
    COMPONENT.replace("STEPS", steps)
}

const COMPONENT: &str = r#"(component
  (import "wasi:io/error@0.2.0" (instance $io-error
    (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8))
        (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:http/types@0.2.0" (instance $types
    (alias outer 1 $output-stream (type $outer-output-stream))
    (export "output-stream" (type $output-stream (eq $outer-output-stream)))
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "outgoing-body" (type $body (sub resource)))
    (export "response-outparam" (type $outparam (sub resource)))
    (type $dns (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns-payload (eq $dns)))
    (type $tls (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls-payload (eq $tls)))
    (type $field (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field-payload (eq $field)))
    (type $code (variant
      (case "DNS-timeout")
      (case "DNS-error" $dns-payload)
      (case "destination-not-found")
      (case "destination-unavailable")
      (case "destination-IP-prohibited")
      (case "destination-IP-unroutable")
      (case "connection-refused")
      (case "connection-terminated")
      (case "connection-timeout")
      (case "connection-read-timeout")
      (case "connection-write-timeout")
      (case "connection-limit-reached")
      (case "TLS-protocol-error")
      (case "TLS-certificate-error")
      (case "TLS-alert-received" $tls-payload)
      (case "HTTP-request-denied")
      (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid")
      (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $field-payload))
      (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $field-payload)
      (case "HTTP-response-incomplete")
      (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $field-payload)
      (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $field-payload)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed")
      (case "HTTP-protocol-error")
      (case "loop-detected")
      (case "configuration-error")
      (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $code)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-response"
      (func (param "headers" (own $fields)) (result (own $response))))
    (export "[method]outgoing-response.body"
      (func (param "self" (borrow $response)) (result (result (own $body)))))
    (export "[method]outgoing-body.write"
      (func (param "self" (borrow $body)) (result (result (own $output-stream)))))
    (export "[static]outgoing-body.finish"
      (func (param "this" (own $body)) (param "trailers" (option (own $fields)))
        (result (result (error $error-code)))))
    (export "[static]response-outparam.set"
      (func (param "param" (own $outparam))
        (param "response" (result (own $response) (error $error-code)))))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))
  (alias export $types "outgoing-body" (type $outgoing-body))

  (core module $store
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $store (instantiate $store))
  (alias core export $store "memory" (core memory $memory))
  (alias core export $store "realloc" (core func $realloc))
  (core func $fields (canon lower (func $types "[constructor]fields")))
  (core func $response (canon lower (func $types "[constructor]outgoing-response")))
  (core func $body (canon lower (func $types "[method]outgoing-response.body")
    (memory $memory)))
  (core func $write (canon lower (func $types "[method]outgoing-body.write")
    (memory $memory)))
  (core func $finish (canon lower (func $types "[static]outgoing-body.finish")
    (memory $memory) (realloc $realloc)))
  (core func $set (canon lower (func $types "[static]response-outparam.set")
    (memory $memory)))
  (core func $send
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
      (memory $memory)))
  (core func $drop-stream (canon resource.drop $output-stream))
  (core func $drop-body (canon resource.drop $outgoing-body))

  (core module $handler
    (import "host" "memory" (memory 1))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "response" (func $response (param i32) (result i32)))
    (import "host" "body" (func $body (param i32 i32)))
    (import "host" "write" (func $write (param i32 i32)))
    (import "host" "finish" (func $finish (param i32 i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "host" "send" (func $send (param i32 i32 i32 i32)))
    (import "host" "drop-stream" (func $drop-stream (param i32)))
    (import "host" "drop-body" (func $drop-body (param i32)))
    (func (export "handle") (param $request i32) (param $out i32)
      (local $response i32) (local $body i32) (local $stream i32)
      STEPS))
  (core instance $handler (instantiate $handler (with "host" (instance
    (export "memory" (memory $memory))
    (export "fields" (func $fields))
    (export "response" (func $response))
    (export "body" (func $body))
    (export "write" (func $write))
    (export "finish" (func $finish))
    (export "set" (func $set))
    (export "send" (func $send))
    (export "drop-stream" (func $drop-stream))
    (export "drop-body" (func $drop-body))))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $handler "handle")))
  (instance $export (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $export)))"#;
