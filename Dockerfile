# syntax=docker/dockerfile:1
# yolo-lightning for training on NVIDIA GPUs and on CPUs. In a clone of the repository:
#
#   docker build --build-arg USER_ID="$(id -u)" --build-arg GROUP_ID="$(id -g)" --tag yolo-lightning .
#   mkdir -p runs datasets    # otherwise Docker makes them for root
#   docker run --rm -it --gpus all --ipc=host \
#     -v "$PWD/runs:/workspace/yolo-lightning/runs" \
#     -v "$PWD/datasets:/workspace/yolo-lightning/datasets" \
#     yolo-lightning [shell | jupyter | ssh | yolo-lightning fit … | any other command]
#
# --gpus all   uses the host's GPUs; needs NVIDIA's container toolkit on the host. Without it training runs on the CPU.
# --ipc=host   loader workers pass validation batches in shared memory, and a container has only 64 MB of it by default.
# runs/        is a volume, so that runs outlive the container.
#
# docs/container.md explains ports, variables and errors.

# PyTorch, CUDA and cuDNN of one release, built for each other. CUDA 13 needs a host driver from 580 on.
# For an older driver: --build-arg BASE=pytorch/pytorch:2.11.0-cuda12.6-cudnn9-runtime
ARG BASE=pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime

FROM ${BASE} AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY yolo_lightning yolo_lightning
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
ARG USER_ID=1000
ARG GROUP_ID=1000

# Compilers and Python's headers are needed at run time: torch.compile writes C++ for the CPU, and Triton writes a C
# launcher for each GPU kernel. tini forwards signals and reaps ended processes. The ssh package makes host keys, which
# are removed because they would be the same in all containers.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ gcc git openssh-client openssh-server python3-dev python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && rm -f /etc/ssh/ssh_host_*

# The user has the id of the user outside, who then owns the files in mounted folders. Ubuntu's own user has the same id
# by default, so it is removed.
RUN if [ "${USER_ID}" = 0 ]; then echo "USER_ID is root's; give that of an ordinary user" >&2; exit 1; fi \
    && if id ubuntu >/dev/null 2>&1; then userdel --remove ubuntu; fi \
    && groupadd --non-unique --gid "${GROUP_ID}" yolo \
    && useradd --no-log-init --non-unique --uid "${USER_ID}" --gid yolo --create-home --shell /bin/bash yolo \
    && install --directory --owner yolo --group yolo \
        /home/yolo/.cache /home/yolo/.local /home/yolo/.local/state /opt/yolo-lightning \
        /workspace/yolo-lightning /workspace/yolo-lightning/datasets /workspace/yolo-lightning/runs

COPY deploy/container/profile.sh /etc/profile.d/yolo-lightning.sh
COPY deploy/container/entrypoint.sh /usr/local/bin/entrypoint.sh

# By number, so that Kubernetes can see that it is not root.
USER ${USER_ID}:${GROUP_ID}
ENV VIRTUAL_ENV=/opt/yolo-lightning
ENV PATH=$VIRTUAL_ENV/bin:$PATH \
    TORCHINDUCTOR_CACHE_DIR=/home/yolo/.cache/torchinductor \
    TRITON_CACHE_DIR=/home/yolo/.cache/triton

# An environment on top of the base's packages, locked: each file has its hash in requirements/image.txt, and nothing
# else is installed. torch and torchvision are the base's, because others could be for another CUDA.
# sbom.json lists every Python package that the image has, the base's too, in CycloneDX's format. Any user may add
# packages, because a devcontainer or docker run --user may change the id of the user.
COPY requirements/image.txt /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
RUN python -m venv --system-site-packages "$VIRTUAL_ENV" \
    && "$VIRTUAL_ENV/bin/python" -m pip install --no-cache-dir --no-deps --require-hashes \
        --requirement /tmp/requirements.txt \
    && "$VIRTUAL_ENV/bin/python" -m pip install --no-cache-dir --no-deps /tmp/wheels/*.whl \
    && python -m venv /tmp/tools \
    && /tmp/tools/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /tmp/tools/bin/cyclonedx-py environment --output-reproducible --output-file "$VIRTUAL_ENV/sbom.json" \
        "$VIRTUAL_ENV/bin/python" \
    && rm -r /tmp/tools \
    && chmod --recursive a+rwX "$VIRTUAL_ENV"

WORKDIR /workspace/yolo-lightning
COPY --chown=yolo:yolo configs configs
COPY --chown=yolo:yolo notebooks notebooks
COPY --chown=yolo:yolo scripts scripts

VOLUME ["/workspace/yolo-lightning/runs"]
# Jupyter, ssh, TensorBoard
EXPOSE 8888 22 6006
# The port of jupyter or ssh answers. Training is not watched.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["entrypoint.sh", "health"]
ENTRYPOINT ["tini", "--", "entrypoint.sh"]
CMD ["shell"]
