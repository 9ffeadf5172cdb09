#!/usr/bin/env bash
# Installs what builds the filters of examples/filters that are not in Rust: componentize-js by npm, componentize-py by pip,
# clang and WASI's C library by apt, wit-bindgen by cargo. All but apt's packages go to target/languages.
#
# What cannot be had is said and left out: the tests that need it then skip themselves. `--strict` fails.
set -uo pipefail
cd "$(dirname "$0")/.."

EXAMPLES=$PWD/examples/filters
TOOLS=$PWD/${CARGO_TARGET_DIR:-target}/languages
case ${CARGO_TARGET_DIR:-} in /*) TOOLS=$CARGO_TARGET_DIR/languages ;; esac
WIT_BINDGEN=0.61.0
LOG=$TOOLS/install.log
missing=0

say() { echo "languages: $*" >&2; }

# NAME COMMAND...: runs a step quietly; its words only matter where it fails.
step() {
    local name=$1; shift
    if "$@" >"$LOG" 2>&1; then
        say "$name is there"
    else
        say "no $name: $(tail -1 "$LOG")"
        missing=1
    fi
}

# npm may leave a tree with holes where packages have changed since: then it begins anew.
javascript() {
    cp "$EXAMPLES/javascript/package.json" "$TOOLS/" || return
    install_javascript && return
    rm -rf "$TOOLS/node_modules"
    install_javascript
}

install_javascript() {
    timeout 300 npm install --prefix "$TOOLS" --no-audit --no-fund --no-package-lock &&
        "$TOOLS/node_modules/.bin/componentize-js" --version
}

python() {
    [ -x "$TOOLS/venv/bin/pip" ] || python3 -m venv "$TOOLS/venv"
    timeout 300 "$TOOLS/venv/bin/pip" install --requirement "$EXAMPLES/python/requirements.txt"
}

c_compiler() {
    works_for_wasm && return
    timeout 300 apt-get update
    timeout 300 apt-get install -y --no-install-recommends clang lld libclang-rt-dev-wasm32 wasi-libc &&
        works_for_wasm
}

works_for_wasm() {
    echo 'void *malloc(__SIZE_TYPE__); void *f(void) { return malloc(1); }' >"$TOOLS/probe.c" &&
        clang --target=wasm32-wasi -mexec-model=reactor "$TOOLS/probe.c" -o "$TOOLS/probe.wasm"
}

# Without optimisation: it runs for a moment, and is built in a quarter of the time.
c_bindings() {
    cargo install --root "$TOOLS" --debug "wit-bindgen-cli@$WIT_BINDGEN" --no-default-features --features c
}

mkdir -p "$TOOLS"
step componentize-js javascript
step componentize-py python
step "clang for wasm" c_compiler
step wit-bindgen c_bindings
[ "${1:-}" != --strict ] || exit $missing
