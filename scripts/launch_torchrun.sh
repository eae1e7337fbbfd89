#!/usr/bin/env bash
# Trains on plain machines, without a scheduler. The same line on every node, which see the same RUNS_DIR:
#
#   NNODES=4 RDZV_ENDPOINT=node0:29400 RUNS_DIR=/shared/runs RUN_NAME=coco \
#     bash scripts/launch_torchrun.sh --data.root /data/coco --trainer.max_epochs 300
#
# On one machine none of the variables is needed. What follows the script's name goes to `yolo-lightning fit`.
#
#   NNODES          nodes, or FEWEST:MOST for a run that continues with fewer or more (default: 1)
#   NPROC_PER_NODE  processes a node; gpu: one for each GPU, cpu: one for each core (default: gpu, else 1)
#   RDZV_ENDPOINT   HOST:PORT of one of the nodes, the same everywhere; needed for more than one node
#   MASTER_ADDR     with MASTER_PORT (default: 29400) another way to give RDZV_ENDPOINT
#   NODE_RANK       not needed, the nodes agree on it; where it is given, node 0 is where others meet
#   LOCAL_ADDR      address by which the others reach this node, if its host name does not resolve
#   MAX_RESTARTS    how often processes that crashed are started again, on all nodes together (default: 3)
#   RUN_NAME        one name is one run: starting it again resumes it (default: fit)
#   RUNS_DIR        folder of all runs, absolute, on a file system that all nodes share (default: ./runs)
#   STOP_SECONDS    how long a node that is stopped may save before it is killed (default: 120)
#   PYTHON          (default: .venv/bin/python beside the sources if there is one, else python)
#
# Exit status: 0 when the training is done, 75 when it was asked to stop and has saved itself (the same command
# resumes), and 2 when wrong input or a wrong cluster kept it from starting. SIGTERM or Ctrl-C to this
# script on one node stops all of them. What the Kubernetes training operator sets (PET_NNODES,
# PET_RDZV_ENDPOINT, …) is used where the variables above are not given.
set -euo pipefail

stop() {
    echo "launch_torchrun.sh: $*" >&2
    exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
[ -x "$python" ] || python="${PYTHON:-python}"
nodes="${NNODES:-${PET_NNODES:-1}}"
address="${MASTER_ADDR:-${PET_MASTER_ADDR:-}}"
endpoint="${RDZV_ENDPOINT:-${PET_RDZV_ENDPOINT:-${address:+$address:${MASTER_PORT:-${PET_MASTER_PORT:-29400}}}}}"
runs="${RUNS_DIR:-$PWD/runs}"
name="${RUN_NAME:-fit}"
node_rank="${NODE_RANK:-${PET_NODE_RANK:-}}"

if [ "$nodes" = 1 ]; then
    endpoint="${endpoint:-127.0.0.1:0}" # a port that is free
elif [ -z "$endpoint" ]; then
    stop "NNODES is $nodes but the nodes do not know where to meet; set RDZV_ENDPOINT=HOST:PORT"
fi
case "$runs" in
/*) ;;
*) stop "RUNS_DIR is $runs; give an absolute path on a file system that all nodes share" ;;
esac
processes="${NPROC_PER_NODE:-${PET_NPROC_PER_NODE:-auto}}"
if [ "$processes" = auto ]; then # torchrun's own auto means every core where there is no GPU
    processes="$("$python" -c 'import torch; print(max(torch.cuda.device_count(), 1))')"
fi

# The program of each process. torchrun describes the node and the processes by environment variables, also after a
# restart with fewer nodes, and Lightning needs the same numbers. A process that was asked to stop is done, not
# broken: torchrun gets 0, so that it does not restart it, and this script returns 75. Wrong input is not restarted
# either: the same would happen again. This holds for the first start alone, because in a later one other nodes may
# be missing for a moment. Once there is a process group, other processes may hang in it: then torchrun gets the
# failure and ends them, and the processes that it restarts end at once.
worker='
import os, sys
from pathlib import Path
folder, rank = Path(os.environ["LAUNCH_FOLDER"]), os.environ["LOCAL_RANK"]
if any(folder.glob("refused.*")):
    sys.exit(0)
(folder / f"stopped.{rank}").unlink(missing_ok=True)
process = folder / f"process.{rank}"
is_first = not process.exists()
process.write_text(str(os.getpid()))
import yolo_lightning.__main__
from yolo_lightning.system.signals import training_has_begun
from yolo_lightning.distributed.failure import is_failing
local, world = (int(os.environ[size]) for size in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
try:
    yolo_lightning.__main__.main(
        [*sys.argv[1:], f"--trainer.devices={local}", f"--trainer.num_nodes={world // local}"])
except SystemExit as end:
    refused = end.code == 2 or end.code == 75 and is_failing()  # its end was near, torchrun was faster
    if refused and is_first and not training_has_begun():
        (folder / f"refused.{rank}").touch()
        from torch import distributed
        if distributed.is_initialized() and not is_failing():
            raise
    elif end.code == 75:
        (folder / f"stopped.{rank}").touch()
    else:
        raise
'

LAUNCH_FOLDER="$(mktemp -d)"
export LAUNCH_FOLDER
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${STOP_SECONDS:-120}"
# A new store for each start of the processes. In a store that torchrun keeps, nodes look under the number of their
# own restarts. These numbers differ, since a node that sees the others restart before its own process fails does
# not count one. They would find the addresses of dead processes.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
trap 'rm -rf "$LAUNCH_FOLDER"' EXIT

options=(--nnodes "$nodes" --nproc-per-node "$processes" --max-restarts "${MAX_RESTARTS:-${PET_MAX_RESTARTS:-3}}")
options+=(--rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$name")
[ -z "${LOCAL_ADDR:-}" ] || options+=(--local-addr "$LOCAL_ADDR")
if [ "$nodes" != 1 ] && [ -n "$node_rank" ]; then # otherwise who hosts is found out from the endpoint
    [ "$node_rank" = 0 ] && options+=(--rdzv-conf is_host=1) || options+=(--rdzv-conf is_host=0)
fi

# A session of its own: Ctrl-C reaches this script alone, not at the same time torchrun and what it started.
setsid "$python" -m torch.distributed.run "${options[@]}" --no-python "$python" -c "$worker" \
    fit --runs_dir "$runs" --run_name "$name" --ckpt_path auto "$@" &
torchrun=$!

# The first signal goes to the training processes, past torchrun: they save and end together on all nodes,
# and torchrun ends as after any training. Told itself, it would leave the other nodes waiting for it.
asked=0
# shellcheck disable=SC2329  # called by the trap
ask() {
    asked=$((asked + 1))
    if [ "$asked" -gt 1 ] || ! ls "$LAUNCH_FOLDER"/process.* >/dev/null 2>&1; then
        kill -TERM "$torchrun" 2>/dev/null || true
        return
    fi
    for file in "$LAUNCH_FOLDER"/process.*; do
        kill -TERM "$(cat "$file")" 2>/dev/null || true
    done
}
trap ask TERM INT USR1

status=0
wait "$torchrun" || status=$?
while kill -0 "$torchrun" 2>/dev/null; do # wait also returns when a signal came
    wait "$torchrun" || status=$?
done
wait "$torchrun" 2>/dev/null && status=0 || status=$?
left() {
    ls "$LAUNCH_FOLDER/$1".* >/dev/null 2>&1
}
# torchrun, too, stops processes, when one of them has failed: that is no wish to go on later.
if left stopped && [ "$asked" -gt 0 ]; then
    status=75
elif left refused; then
    status=2
elif left stopped && [ "$status" = 0 ]; then
    status=75
fi
exit "$status"
