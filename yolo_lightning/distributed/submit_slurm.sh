#!/bin/bash
# Trains on one or more nodes of a Slurm cluster. The job outlives pre-emption, its time limit and a lost
# node: it saves itself, goes back into the queue, and resumes where it was, in the same run directory.
#
#   sbatch --nodes 4 scripts/submit_slurm.sh --data.root /data/coco --data.image_size 640
#
# Options before the script are sbatch's and override the lines below; those after it are those of
# "yolo-lightning fit". Without GPUs:
#
#   sbatch --nodes 4 --gpus-per-node 0 --ntasks-per-node 2 scripts/submit_slurm.sh --data.root /data/coco
#
# "yolo-lightning submit slurm" writes this script with your values and submits it.
# To resume a run whose job has ended:  RUN_NAME=slurm-123 sbatch … with the same options.

# A job named "bash" or "interactive" would not be seen as one by Lightning.
#SBATCH --job-name=yolo-lightning
#SBATCH --nodes=1
# One process a GPU: these two numbers are the same (older clusters: --gres=gpu:8). Each process has to see
# all GPUs of its node, therefore not --gpus-per-task.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
# Cores that decode images, for each process.
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
##SBATCH --partition=NAME
##SBATCH --account=NAME
##SBATCH --constraint=FEATURE
# Notice before the time limit and before pre-emption: room for one batch, or the metrics of a validation,
# and one checkpoint.
#SBATCH --signal=USR1@120
# Slurm may start the job again; it then appends to the log.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -o nounset -o pipefail

# The run directory is $runs_dir/$run_name/version_0, on a file system that all nodes see. Neither name
# changes when the job starts again.
runs_dir="${RUNS_DIR:-$SLURM_SUBMIT_DIR/runs}"
run_name="${RUN_NAME:-slurm-$SLURM_JOB_ID}"
python="${PYTHON:-$SLURM_SUBMIT_DIR/.venv/bin/python}"
# Where each node keeps decoded images, such as /scratch or '$TMPDIR' on a disk of its own; empty: beside the
# data, once for all nodes. In single quotes, a variable is that of each node, not of the first one.
local_cache="${LOCAL_CACHE:-}"
# auto: GPUs if Slurm has given any, or if there are some.
accelerator=auto
# After this many restarts the script no longer queues the job; Slurm and the program still may.
max_restarts="${MAX_RESTARTS:-50}"
set -- "$@"

say() {
    echo "$(date '+%F %T') job $SLURM_JOB_ID: $*" >&2
}

job_state() {
    scontrol show job -o "$job" 2>/dev/null | sed -n '1s/.* JobState=\([A-Z_]*\).*/\1/p'
}

# Queue the job again if it still runs: one that is completing has been cancelled or queued again already.
requeue() {
    if [ "$(job_state)" = RUNNING ]; then
        say "$1; the job is queued again"
        scontrol requeue "$job"
    fi
}

requeue_within_limit() {
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_restarts" ]; then
        requeue "$1"
    else
        say "$1; the job has started again $max_restarts times and ends here"
    fi
}

# A name that does not resolve leaves every process waiting for the first one.
address_of() {
    local address
    if getent ahosts "$1" >/dev/null; then
        echo "$1"
        return
    fi
    address="$(scontrol show node -o "$1" 2>/dev/null | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')"
    if [ -n "$address" ] && getent ahosts "$address" >/dev/null; then
        echo "$address"
        return
    fi
    # The node itself knows an address of its own.
    srun --nodes=1 --ntasks=1 --nodelist="$1" hostname -I 2>/dev/null | awk '{print $1}'
}

# Whether every node still starts a process. Slurm itself notices a lost node only after minutes.
nodes_answer() {
    timeout 60 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=1 \
        true 2>/dev/null
}

for option in "$@"; do
    case "$option" in
    --ckpt_path | --ckpt_path=* | --runs_dir | --runs_dir=* | --run_name | --run_name=*)
        say "$option is set by this script; start from weights with --model.weights," \
            "resume a run with RUN_NAME (and RUNS_DIR) in the environment of sbatch"
        exit 2
        ;;
    --trainer.num_nodes | --trainer.num_nodes=* | --trainer.devices | --trainer.devices=*)
        say "$option follows from sbatch's --nodes and --ntasks-per-node; leave it out"
        exit 2
        ;;
    esac
done

job="$SLURM_JOB_ID"
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
if [ -z "${SLURM_NTASKS_PER_NODE:-}" ]; then
    say "give sbatch --ntasks-per-node: --ntasks alone does not say how many processes a node has"
    exit 2
fi
if [ "$accelerator" = auto ] && [ "${SLURM_GPUS_ON_NODE:-0}" != 0 ]; then
    accelerator=gpu
fi
if [ ! -x "$python" ]; then
    say "there is no $python; set PYTHON to that of the environment with yolo-lightning"
    exit 2
fi
if [ -n "$local_cache" ]; then
    export YOLO_LIGHTNING_CACHE="$local_cache"
fi

first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_ADDR="$(address_of "$first")"
if [ -z "$MASTER_ADDR" ]; then
    say "the first node, $first, has no address that resolves; set MASTER_ADDR in this script"
    exit 2
fi
# Below the ports that Linux hands out by itself, and another one for each job and start.
MASTER_PORT=$((15000 + (SLURM_JOB_ID + 7 * ${SLURM_RESTART_COUNT:-0}) % 16000))
export MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1

# NCCL finds InfiniBand, RoCE and NVLink by itself. Where a job hangs at its first exchange, or is slow:
# export NCCL_DEBUG=INFO              # says which network each rank uses: "NET/IB" or "NET/Socket"
# export NCCL_SOCKET_IFNAME=eth0      # the interface for connecting (and for data without InfiniBand);
#                                     # "^docker0,lo" excludes: bridges of containers reach no other node
# export GLOO_SOCKET_IFNAME=eth0      # of gloo, which trains without GPUs and with them agrees on stops: one
#                                     # plain name, it knows no "^". Needed where /etc/hosts gives a node's
#                                     # own name the address 127.0.1.1
# export NCCL_IB_HCA=mlx5_0,mlx5_1    # of several InfiniBand adapters, those of the compute network
# export NCCL_IB_GID_INDEX=3          # RoCE: the index of the routable address, see show_gids
# export NCCL_IB_DISABLE=1            # to find out whether InfiniBand is what hangs; slow
# export NCCL_NET_GDR_LEVEL=PHB       # how far a GPU may be from the adapter that reads its memory directly

say "start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST," \
    "processes meet at $MASTER_ADDR:$MASTER_PORT, run directory $runs_dir/$run_name/version_0"

# When the job is queued again or cancelled this shell gets SIGTERM like everybody; it waits for the others.
trap : TERM

# srun tells only the largest of the exit statuses, and a process that it ends because of another one may
# cover that one's: so each that was asked to stop leaves a mark, 75 for "saved", 138 (128 + SIGUSR1) for
# "notice came before the program had begun to listen".
marks="$runs_dir/$run_name/.stopped_${SLURM_JOB_ID}_${SLURM_RESTART_COUNT:-0}"
# shellcheck disable=SC2016
with_mark='trap : TERM USR1
    "$@"
    status=$?
    case $status in 75 | 138) : >"$0.$status" ;; esac
    exit $status'
if ! mkdir -p "$runs_dir/$run_name"; then
    say "the run directory cannot be made; set RUNS_DIR to a folder that all nodes see"
    exit 2
fi

# One process that fails ends all. srun has not taken --cpus-per-task from sbatch since Slurm 22.05. It does take
# --export from it, and with sbatch --export=NONE would hand on nothing of what is set above.
srun --export=ALL --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c "$with_mark" "$marks" \
    "$python" -m yolo_lightning fit --trainer.accelerator "$accelerator" "$@" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "${SLURM_NTASKS_PER_NODE%%(*}" \
    --runs_dir "$runs_dir" --run_name "$run_name" --ckpt_path auto
status=$?

if [ -e "$marks.75" ]; then # the program has queued the job again, unless it could not reach scontrol
    requeue "the run is saved"
elif [ -e "$marks.138" ]; then
    requeue_within_limit "notice came before the program listened"
elif [ "$status" != 0 ] && [ "$(job_state)" = RUNNING ] && ! nodes_answer; then
    requeue_within_limit "a node is lost"
fi
rm -f "$marks".*
exit "$status"
