#!/bin/sh
# Builds token_gate.wasm, with a Python of its own in .venv where componentize-py is not installed.
set -eu
cd "$(dirname "$0")"

if ! command -v componentize-py >/dev/null; then
    [ -d .venv ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement requirements.txt
    PATH=$PWD/.venv/bin:$PATH
fi
componentize-py --quiet -d wit -w filter componentize app -o token_gate.wasm
