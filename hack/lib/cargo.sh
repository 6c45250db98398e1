#!/usr/bin/env bash
# Sourced by the scripts that run cargo: finds it, and shares one target directory between them.

KOLLECT_TOOLS_DIR=${KOLLECT_TOOLS_DIR:-$HOME/.cache/kollect}
export KOLLECT_TOOLS_DIR
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$KOLLECT_TOOLS_DIR/target}

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi
command -v cargo >/dev/null || {
    echo "Rust is needed: https://rustup.rs" >&2
    exit 1
}
