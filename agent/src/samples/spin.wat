;; spin: never ends by itself. Protocol: stdio.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $forever
      (br $forever))))
