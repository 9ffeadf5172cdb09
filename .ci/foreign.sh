#!/usr/bin/env bash
# Installs the clients and servers of others that tests talk to: a browser, nghttp, h2load and curl by apt; h2, wsproto and
# gRPC by pip, into target/foreign.
#
# What cannot be had is said and left out: the tests that need it then skip themselves. `--strict`, as in CI, fails.
set -uo pipefail
cd "$(dirname "$0")/.."

TOOLS=$PWD/${CARGO_TARGET_DIR:-target}/foreign
case ${CARGO_TARGET_DIR:-} in /*) TOOLS=$CARGO_TARGET_DIR/foreign ;; esac
LOG=$TOOLS/install.log
missing=0

say() { echo "foreign: $*" >&2; }

# PROGRAM PACKAGE: by apt, where it is not there.
program() {
    command -v "$1" >/dev/null && { say "$1 is there"; return; }
    if timeout 300 apt-get update >"$LOG" 2>&1 &&
        timeout 600 apt-get install -y --no-install-recommends "$2" >"$LOG" 2>&1 && command -v "$1" >/dev/null; then
        say "$1 is there now"
    else
        say "no $1: $(tail -1 "$LOG")"
        missing=1
    fi
}

python() {
    [ -x "$TOOLS/venv/bin/pip" ] || python3 -m venv "$TOOLS/venv"
    timeout 300 "$TOOLS/venv/bin/pip" install --disable-pip-version-check --requirement tests/foreign/requirements.txt
}

mkdir -p "$TOOLS"
program chromium chromium
program nghttp nghttp2-client
program h2load nghttp2-client
program curl curl
if python >"$LOG" 2>&1; then
    say "the packages of tests/foreign are there"
else
    say "not all packages of tests/foreign: $(tail -1 "$LOG")"
    missing=1
fi
[ "${1:-}" != --strict ] || exit $missing
