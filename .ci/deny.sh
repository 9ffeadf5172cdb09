#!/usr/bin/env bash
# Checks all dependencies against .deny.toml: licences, sources, bans and duplicates, and known advisories. Installs
# cargo-deny into target/tools where it is not there.
#
# The advisories are a repository of their own. Where it cannot be had they are not checked, which is said and is no
# failure; everything else is.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.20.2
TOOLS=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
PATH=$TOOLS/bin:$PATH
LOG=$TOOLS/deny.log

say() { echo "deny: $*" >&2; }

# Without optimisation: a minute instead of three or four, and it runs for seconds all the same.
install() {
    say "installing cargo-deny $VERSION (about a minute)"
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --locked --root "$TOOLS" "cargo-deny@$VERSION" >"$LOG" 2>&1 || { tail -15 "$LOG" >&2; exit 1; }
}

# FOLDER WHAT ARGUMENT...
check() {
    local folder=$1 what=$2
    say "$what of $folder"
    # shellcheck disable=SC2086
    cargo deny --manifest-path "$folder/Cargo.toml" --config .deny.toml --locked \
        check --hide-inclusion-graph "${@:3}" $what
}

mkdir -p "$TOOLS"
cargo deny --version >/dev/null 2>&1 || install

# An entry that nothing needs any more is a fault too: the lists stay as short as they can be.
check . "licenses bans sources" -D license-not-encountered \
    -D unmatched-skip -D unnecessary-skip -A license-exception-not-encountered
check proxy/fuzz "licenses bans sources" -A license-not-encountered -A unmatched-skip -A unnecessary-skip

if timeout 120 cargo deny --config .deny.toml fetch db >"$LOG" 2>&1; then
    check . advisories
    check proxy/fuzz advisories
else
    say "advisories: not checked, the database cannot be reached ($(grep . "$LOG" | tail -1))"
fi
