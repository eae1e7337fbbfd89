#!/usr/bin/env bash
# Entry point of the container. It starts:
#
#   shell               a shell (default)
#   jupyter [OPTION …]  JupyterLab on port 8888; requires the token
#   ssh [OPTION …]      an ssh server on port 22; requires a key
#   COMMAND [ARG …]     any other command, such as yolo-lightning fit --data.root datasets/mine
#
# Variables:
#
#   JUPYTER_TOKEN         the token (default: a new one, printed)
#   JUPYTER_PORT          (default: 8888)   JUPYTER_ADDRESS  address to listen on (default: 127.0.0.1)
#   AUTHORIZED_KEYS       public keys, one a line
#   AUTHORIZED_KEYS_FILE  a mounted file of public keys (default: /run/secrets/authorized_keys)
#   SSH_PORT              (default: 22)     SSH_ADDRESS      address to listen on (default: 127.0.0.1)
#   SSHD                  the server's program (default: /usr/sbin/sshd)
#
# docker run -p leads to the container's own address: to reach a server that way, set its address to 0.0.0.0.
# Options after jupyter and ssh go to jupyter and sshd. Everything runs as the container's user, who is not root.
set -euo pipefail

state="${XDG_STATE_HOME:-$HOME/.local/state}/yolo-lightning"
listening="${XDG_RUNTIME_DIR:-/tmp}/entrypoint.port" # for the health check; gone with the container
python="${PYTHON:-python}"

stop() {
    echo "entrypoint.sh: $*" >&2
    exit 2
}

# On standard error, to keep it out of a command's output.
greet() {
    {
        "$python" - <<'PYTHON'
import platform
from importlib.metadata import PackageNotFoundError, version

found = []
for name in ("yolo-lightning", "torch", "lightning"):
    try:
        found.append(f"{name} {version(name)}")
    except PackageNotFoundError:
        found.append(f"{name} is not installed")
print(", ".join([*found, f"Python {platform.python_version()}"]))
PYTHON
        if command -v nvidia-smi >/dev/null; then
            nvidia-smi || echo "nvidia-smi does not answer; was the container started with --gpus all?"
        else
            echo "No GPU is visible here (docker run --gpus all); training runs on the CPU."
        fi
        if [ -d runs ] && [ ! -w runs ]; then
            echo "Runs cannot be saved: $PWD/runs belongs to another user than $(id -u)." \
                "Build the image with --build-arg USER_ID=\$(id -u)."
        fi
    } >&2
}

start_jupyter() {
    local port="${JUPYTER_PORT:-8888}"
    if [ -z "${JUPYTER_TOKEN:-}" ]; then # an empty token would admit everybody
        JUPYTER_TOKEN="$("$python" -c 'import secrets; print(secrets.token_hex(24))')"
        echo "JupyterLab: http://127.0.0.1:$port/lab?token=$JUPYTER_TOKEN" >&2
    fi
    export JUPYTER_TOKEN # Jupyter reads it from the environment; on the command line every process could see it
    echo "$port" >"$listening"
    # Another port than the published one could not be reached.
    exec "$python" -m jupyterlab --no-browser --ServerApp.ip="${JUPYTER_ADDRESS:-127.0.0.1}" \
        --ServerApp.port="$port" --ServerApp.port_retries=0 --ServerApp.root_dir="$PWD" "$@"
}

collect_keys() {
    local file="${AUTHORIZED_KEYS_FILE:-/run/secrets/authorized_keys}"
    if [ -n "${AUTHORIZED_KEYS_FILE:-}" ] && [ ! -r "$file" ]; then
        stop "AUTHORIZED_KEYS_FILE is $file, which cannot be read; mount it: -v ~/.ssh/id_ed25519.pub:$file:ro"
    fi
    # A copy, because the server requires a file that nobody else can write.
    {
        printf '%s\n' "${AUTHORIZED_KEYS:-}"
        if [ -r "$file" ]; then cat "$file"; fi
    } >"$1"
    if ! ssh-keygen -l -f "$1" >/dev/null 2>&1; then
        stop "no public key for ssh; mount one: -v ~/.ssh/id_ed25519.pub:/run/secrets/authorized_keys:ro," \
            "or give its text as AUTHORIZED_KEYS"
    fi
}

# Since Docker 20.10 an ordinary user may listen on port 22, but not with --network host.
check_port() {
    local first
    first="$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo 1024)"
    if [ "$1" -lt "$first" ]; then
        stop "ports below $first are root's here; start the container with" \
            "--sysctl net.ipv4.ip_unprivileged_port_start=0, or with -e SSH_PORT=2222 -p 22:2222"
    fi
}

# Variables of the image and of docker run, which an ssh session would not have otherwise.
session_environment() {
    local name
    for name in PATH LD_LIBRARY_PATH VIRTUAL_ENV TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR \
        NVIDIA_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES OMP_NUM_THREADS YOLO_LIGHTNING_CACHE; do
        if [ -n "${!name:-}" ]; then printf ' "%s=%s"' "$name" "${!name}"; fi
    done
}

start_ssh() {
    local port="${SSH_PORT:-22}" folder="$state/ssh"
    if [ "$(id -u)" = 0 ]; then
        stop "the ssh server lets in the user that it runs as, and root is not let in; start without --user root"
    fi
    check_port "$port"
    umask 077 # only the owner may read the keys
    mkdir -p "$folder"
    collect_keys "$folder/authorized_keys"
    if [ ! -f "$folder/host_key" ]; then # made once, otherwise clients would be warned after each start
        ssh-keygen -q -t ed25519 -N '' -C yolo-lightning -f "$folder/host_key"
    fi
    cat >"$folder/sshd_config" <<CONFIGURATION
ListenAddress ${SSH_ADDRESS:-127.0.0.1}
Port $port
HostKey $folder/host_key
AuthorizedKeysFile $folder/authorized_keys
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
AllowUsers $(id -un)
UsePAM no
PidFile none
Subsystem sftp internal-sftp
SetEnv$(session_environment)
CONFIGURATION
    echo "$port" >"$listening"
    echo "ssh -p PORT $(id -un)@HOST, with PORT as published of $port;" \
        "host key $(ssh-keygen -l -f "$folder/host_key.pub" | cut -d ' ' -f 2)" >&2
    exec "${SSHD:-/usr/sbin/sshd}" -D -e -f "$folder/sshd_config" "$@"
}

check_health() {
    local port
    [ -f "$listening" ] || return 0 # no server was started
    port="$(cat "$listening")"
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || stop "nothing answers on port $port"
}

case "${1:-shell}" in
shell)
    greet
    exec bash "${@:2}"
    ;;
jupyter)
    greet
    start_jupyter "${@:2}"
    ;;
ssh)
    greet
    start_ssh "${@:2}"
    ;;
greeting)
    greet
    ;;
health)
    check_health
    ;;
*)
    command -v "$1" >/dev/null ||
        stop "there is no command $1; did you mean: yolo-lightning $*? (or shell, jupyter, ssh)"
    exec "$@"
    ;;
esac
