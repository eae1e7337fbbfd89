#!/usr/bin/env bash
# Installs yolo-lightning into .venv beside the sources.
#
#   bash scripts/setup.sh                    the package alone
#   bash scripts/setup.sh --dev              also the tools for tests, documentation and notebooks
#   PYTHON=python3.12 bash scripts/setup.sh  with a Python of your choice
#
# It may run from any directory. A second run is quick and needs no network.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

stop() {
    echo "yolo-lightning: $*" >&2
    exit 1
}

case "${1:-}" in
"") set_name=package extras="" ;;
--dev) set_name=dev extras="[dev]" ;;
*) stop "setup.sh does not know the option $1; it takes --dev or nothing." ;;
esac

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

# The file `installed` records the location, the pyproject.toml and the set of the last installation.
# The dev set contains the package.
source="$root $(cksum <"$root/pyproject.toml")"
installed="$(cat "$venv/installed" 2>/dev/null || true)"
if [ "$installed" != "$source $set_name" ] && [ "$installed" != "$source dev" ]; then
    echo "Installing into $venv. The first time takes minutes and 6 GB, because PyTorch comes with CUDA."
    "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --editable "$root$extras"
    echo "$source $set_name" >"$venv/installed"
fi
