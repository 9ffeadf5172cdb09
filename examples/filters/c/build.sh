#!/bin/sh
# Builds token_gate.wasm with clang and wasm-ld, WASI's C library, and `wit-bindgen` for the bindings.
set -eu
cd "$(dirname "$0")"

wit-bindgen c --world filter --out-dir bindings wit

# A reactor is called again and again, unlike a program with a main. The proxy makes a component of the
# module: what the interface is called stands in filter_component_type.o.
"${CC:-clang}" --target=wasm32-wasi -mexec-model=reactor -Os -Wall -Wextra -Werror -Ibindings \
    token_gate.c bindings/filter.c bindings/filter_component_type.o -Wl,--strip-debug -o token_gate.wasm
