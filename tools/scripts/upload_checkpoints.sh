#!/usr/bin/env bash
# Copy checkpoints into the bucket of the config: a thin call of `linnaeus upload`.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: $0 FILE... [--force] [--config FILE] [--set KEY=VALUE]" >&2
  echo "Copies each checkpoint FILE into the bucket ENV.INPUT.BUCKET of the config; see: linnaeus upload --help" >&2
  exit 2
fi

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
program=$root/.venv/bin/linnaeus
if [ ! -x "$program" ] && ! program=$(command -v linnaeus); then
  echo "error: linnaeus is not installed: neither $root/.venv/bin/linnaeus nor on PATH. Install it with: make setup" >&2
  exit 1
fi

exec "$program" upload "$@"
