;; Ends in a trap before it says anything.
(module
  (memory (export "memory") 1)
  (func (export "_start") unreachable))
