;; Wants something of the host that no node offers.
(module
  (import "elsewhere" "anything" (func))
  (memory (export "memory") 1)
  (func (export "_start")))
