#!/usr/bin/env bash
# What building needs: a Rust toolchain (rust-toolchain.toml names it) and a C compiler for zstd and mimalloc.
. "$(dirname "$0")/lib.sh"
command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust with rustup, then run this again"
(cd "$TOP" && cargo --version >/dev/null) || die "the toolchain of rust-toolchain.toml is not installed: run 'rustup toolchain install' in $TOP"
need gcc=gcc make=make
