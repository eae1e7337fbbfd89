#!/usr/bin/env bash
# Locks the versions and hashes of all packages, for any Python and Linux machine, with uv (pip install uv).
#
#   bash scripts/lock.sh            after a change of pyproject.toml: keeps the versions that still fit
#   bash scripts/lock.sh --upgrade  takes the newest versions
#
# requirements/dev.txt    what scripts/setup.sh --dev installs, for the checks of CI
# requirements/image.txt  what the image adds to its base, which brings PyTorch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() {
    local extra="$1" output="$2"
    shift 2
    "${UV:-uv}" pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
        --custom-compile-command "bash scripts/lock.sh" --extra "$extra" --output-file "$output" "$@" pyproject.toml
}

mkdir -p requirements
lock dev requirements/dev.txt "$@"
lock notebook requirements/image.txt --excludes <(printf '%s\n' torch torchvision) "$@"
