;; A module that is neither a command nor a component.
(module
  (memory (export "memory") 1)
  (func (export "other")))
