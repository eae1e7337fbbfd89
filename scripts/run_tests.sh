#!/usr/bin/env bash
# Sets everything up and runs the linter, the type checker and the tests: bash scripts/run_tests.sh
# Further arguments go to pytest, e.g. -k boxes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy &  # beside the first tests, which mostly wait for downloads
types=$!
status=0
.venv/bin/python -m pytest "$@" || status=$?
wait "$types" || status=$?
exit "$status"
