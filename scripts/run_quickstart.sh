#!/usr/bin/env bash
# Installs yolo-lightning, makes the built-in data set and trains on it: bash scripts/run_quickstart.sh
# Further arguments go to the fit command, e.g. --trainer.max_epochs 2.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/scripts/setup.sh"
cd "$root"
.venv/bin/yolo-lightning synth --output datasets/shapes
exec .venv/bin/yolo-lightning fit --config configs/quickstart.yaml "$@"
