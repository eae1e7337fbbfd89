#!/usr/bin/env bash
# Installs yolo-lightning with its development tools, then runs the linter, the type checker and the tests.
#
#   bash scripts/run_tests.sh           all tests but the long ones
#   bash scripts/run_tests.sh --all     all tests
#   bash scripts/run_tests.sh -k boxes  further arguments go to pytest
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
selection=(-m "not long")
if [ "${1:-}" = --all ]; then
    selection=()
    shift
fi
bash "$root/scripts/setup.sh" --dev
cd "$root"
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy & # beside the first tests, which mostly wait for downloads
types=$!
status=0
.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${selection[@]}" "$@" || status=$?
wait "$types" || status=$?
exit "$status"
