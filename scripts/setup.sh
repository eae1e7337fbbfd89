#!/usr/bin/env bash
# Installs yolo-lightning, with what its tests need, into .venv beside the sources.
#
#   bash scripts/setup.sh                    from any directory, as often as you like
#   PYTHON=python3.12 bash scripts/setup.sh  with a Python of your choice
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

stop() {
    echo "yolo-lightning: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "needs Python 3.10 or newer; install it, or name one with PYTHON=/path/to/python3."
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$python cannot make virtual environments; on Debian and Ubuntu run: apt-get install python3-venv"
    "$python" -m venv --clear "$venv"
fi

# An unchanged pyproject.toml that is installed already needs neither time nor a network.
wanted="$root $(cksum <"$root/pyproject.toml")"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing into $venv; the first time takes minutes and 6 GB (PyTorch comes with CUDA)."
    "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --editable "${root}[dev]"
    echo "$wanted" >"$venv/installed"
fi
