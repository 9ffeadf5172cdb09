;; A filter that does one thing with WASI: the letter at offset 8 of its config, `{"act":"x"}`.
(module
  (import "wasi:cli/environment@0.2.6" "get-environment" (func $get_environment (param i32)))
  (import "wasi:cli/environment@0.2.6" "get-arguments" (func $get_arguments (param i32)))
  (import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))
  (import "wasi:cli/stderr@0.2.6" "get-stderr" (func $get_stderr (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.6" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:filesystem/preopens@0.2.6" "get-directories" (func $get_directories (param i32)))
  (import "wasi:io/poll@0.2.6" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.6" "[method]output-stream.write-zeroes" (func $write_zeroes (param i32 i64 i32)))
  (import "wasi:random/random@0.2.6" "get-random-bytes" (func $random (param i64 i32)))
  (import "wasi:sockets/tcp-create-socket@0.2.6" "create-tcp-socket" (func $create_socket (param i32 i32)))
  (import "sluicegate:plugin/http@0.2.0" "[resource-drop]request" (func $give_back (param i32)))
  (memory (export "memory") 2)

  ;; The description: name, version, the request hook, no schema, nothing optional.
  (data (i32.const 0) "\30\00\00\00\05\00\00\00\35\00\00\00\01\00\00\00\01")
  (data (i32.const 48) "guest1")
  (data (i32.const 64) "one\1b[31m\ntwo\nrest")
  (global $act (mut i32) (i32.const 0))
  (global $heap (mut i32) (i32.const 4096))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.get $heap)
    (global.set $heap (i32.add (global.get $heap) (local.get 3))))
  (func (export "describe") (result i32) (i32.const 0))
  (func (export "configure") (param $config i32) (param i32) (result i32)
    (global.set $act (i32.load8_u offset=8 (local.get $config)))
    ;; c: waits in configure
    (if (i32.eq (global.get $act) (i32.const 0x63))
      (then (call $block (call $timer (i64.const 1_000_000)))))
    ;; Ok, the request hook.
    (i32.store (i32.const 128) (i32.const 0))
    (i32.store (i32.const 132) (i32.const 1))
    (i32.const 128))
  (func $absent (param $ok i32)
    (if (i32.eqz (local.get $ok)) (then unreachable)))
  (func (export "on-request") (param $request i32) (result i32)
    (call $give_back (local.get $request))
    ;; e: exits
    (if (i32.eq (global.get $act) (i32.const 0x65)) (then (call $exit (i32.const 1))))
    ;; s: sleeps for a millisecond
    (if (i32.eq (global.get $act) (i32.const 0x73))
      (then (call $block (call $timer (i64.const 1_000_000)))))
    ;; f: waits for ever
    (if (i32.eq (global.get $act) (i32.const 0x66))
      (then (call $block (call $timer (i64.const -1)))))
    ;; t: takes handles without end
    (if (i32.eq (global.get $act) (i32.const 0x74))
      (then (loop $more (drop (call $timer (i64.const 1))) (br $more))))
    ;; w: writes two lines and a half
    (if (i32.eq (global.get $act) (i32.const 0x77))
      (then (call $write (call $get_stderr) (i32.const 64) (i32.const 17) (i32.const 160))))
    ;; z: writes more zeroes than there is memory
    (if (i32.eq (global.get $act) (i32.const 0x7a))
      (then (call $write_zeroes (call $get_stderr) (i64.const 0x7fff_ffff_ffff) (i32.const 160))))
    ;; r: wants too much randomness
    (if (i32.eq (global.get $act) (i32.const 0x72))
      (then (call $random (i64.const 0x1_0001) (i32.const 160))))
    ;; a: finds nothing of the world
    (if (i32.eq (global.get $act) (i32.const 0x61))
      (then
        (call $get_environment (i32.const 160))
        (call $absent (i32.eqz (i32.load (i32.const 164))))
        (call $get_arguments (i32.const 160))
        (call $absent (i32.eqz (i32.load (i32.const 164))))
        (call $get_directories (i32.const 160))
        (call $absent (i32.eqz (i32.load (i32.const 164))))
        ;; An error: access-denied or not-supported.
        (call $create_socket (i32.const 0) (i32.const 160))
        (call $absent (i32.eq (i32.load8_u (i32.const 160)) (i32.const 1)))))
    ;; Continue.
    (i32.store (i32.const 144) (i32.const 0))
    (i32.const 144))
  (func (export "on-response") (param i32) (result i32)
    (i32.store (i32.const 144) (i32.const 0))
    (i32.const 144)))
