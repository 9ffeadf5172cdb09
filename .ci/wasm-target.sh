#!/usr/bin/env bash
# Makes `cargo build --target wasm32-unknown-unknown` work with the active rustc.
#
# First by rustup. Where rustup has no target to offer, by building std from Debian's rust-src of
# exactly this rustc's version and installing it into the sysroot. The apt state used for that is
# private: nothing of the system's is changed, and apt still checks every signature.
set -euo pipefail

TARGET=wasm32-unknown-unknown
SYSROOT=$(rustc --print sysroot)
RELEASE=$(rustc -vV | sed -n 's/^release: //p')
LIBROOT=$SYSROOT/lib/rustlib/$TARGET
WORK=$(mktemp -d "${TMPDIR:-/tmp}/wasm-target.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

say() { echo "wasm-target: $*" >&2; }
die() { say "$*"; exit 1; }

# Links a cdylib that needs std, alloc and LTO bitcode: a mere list of targets proves nothing.
works() {
    cat >"$WORK/probe.rs" <<'RS'
#[unsafe(no_mangle)]
pub extern "C" fn probe(n: i32) -> usize { format!("{n}").len() }
RS
    env -u RUSTFLAGS rustc --edition 2024 --crate-type cdylib --target $TARGET -Cpanic=abort \
        -Clto=fat -o "$WORK/probe.wasm" "$WORK/probe.rs" >"$WORK/probe.log" 2>&1
}

by_rustup() {
    command -v rustup >/dev/null || return 1
    timeout 120 rustup target add $TARGET >"$WORK/rustup.log" 2>&1
}

# Downloads one version of one package into $WORK, with apt directories of our own.
debian_source() {
    command -v apt-get >/dev/null || return 1
    local mirror key suite version dirs=$WORK/apt
    mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
        grep -oE '[a-z]+://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ')
    key=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '$1=="Signed-By:"{print $2; exit}')
    [ -f "$key" ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -n "$mirror" ] || return 1
    mkdir -p "$dirs/lists/partial" "$dirs/cache/archives/partial"
    for suite in "$(. /etc/os-release; echo "$VERSION_CODENAME")" trixie forky sid; do
        echo "deb [signed-by=$key] $mirror $suite main"
    done | sort -u >"$dirs/sources.list"
    local apt=(-q -o Dir::Etc::sourcelist="$dirs/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$dirs/lists" -o Dir::Cache="$dirs/cache" -o Debug::NoLocking=1
        -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)")
    apt-get "${apt[@]}" update >"$WORK/apt.log" 2>&1 || say "some suites could not be read"
    version=$(apt-cache "${apt[@]}" madison rust-src | tr -d ' ' | cut -d'|' -f2 |
        grep -E "^${RELEASE//./\\.}([+~-]|$)" | head -1) || true
    [ -n "$version" ] || { say "Debian has no rust-src $RELEASE"; return 1; }
    (cd "$WORK" && apt-get "${apt[@]}" download "rust-src=$version" >>"$WORK/apt.log" 2>&1) || return 1
    dpkg -x "$WORK"/rust-src_*.deb "$WORK/src"
}

by_source() {
    debian_source || return 1
    local library; library=$(ls -d "$WORK"/src/usr/src/*/library | head -1)
    say "building std for $TARGET (about a minute)"
    (cd "$library" && env -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS=-Zforce-unstable-if-unmarked __CARGO_DEFAULT_LIB_METADATA=wasm-target \
        CARGO_TARGET_DIR="$WORK/target" CARGO_PROFILE_DIST_DEBUG=0 \
        cargo build --locked --manifest-path sysroot/Cargo.toml --profile dist --target $TARGET \
        --features backtrace) >"$WORK/build.log" 2>&1 || { tail -15 "$WORK/build.log" >&2; return 1; }
    # Whole or not at all: a mixture of two builds is worse than none.
    rm -rf "$LIBROOT"
    mkdir -p "$LIBROOT.new/lib"
    find "$WORK/target/$TARGET/dist/deps" -name '*.rlib' ! -name 'libsysroot-*' \
        -exec cp {} "$LIBROOT.new/lib/" \;
    mv "$LIBROOT.new" "$LIBROOT"
}

works && { say "$TARGET works with rustc $RELEASE"; exit 0; }
for route in by_rustup by_source; do
    if $route && works; then
        say "$TARGET works with rustc $RELEASE ($route)"
        exit 0
    fi
    say "$route did not do it"
done
cat "$WORK/probe.log" >&2
die "cannot build for $TARGET; with network access: rustup target add $TARGET"
