"""deploy/kubernetes, checked with the schemas of Kubeflow's Python packages, without a cluster.

The API server refuses unknown fields, wrong types and missing ones; so do the two checkers here, each for one
generation of models: ``kubeflow-training`` (with ``kubernetes`` for the pods) and ``kubeflow-trainer-api``.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes.client.models as pod_models
import pytest
import yaml
from kubeflow.training import models as training_models
from kubeflow_trainer_api import models as trainer_models

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
SCRIPT = ROOT / "scripts" / "launch_torchrun.sh"
PLAIN = {"str": str, "int": int, "bool": bool, "float": float}


def check_openapi(kind: str, value: Any, where: str = "") -> Any:
    """Build a model of one of the ``openapi_types`` packages from plain values.

    Raises:
        ValueError: a field is unknown, missing or of another type; the message begins with its place.
    """
    if of_many := re.fullmatch(r"(?:list\[|dict\(str, )(.+)[\])]", kind):
        expected: type = list if kind.startswith("list") else dict
        if not isinstance(value, expected):
            raise ValueError(f"{where}: {value!r} is not a {expected.__name__}")
        items = enumerate(value) if isinstance(value, list) else value.items()
        built = {key: check_openapi(of_many[1], item, f"{where}.{key}") for key, item in items}
        return list(built.values()) if expected is list else built
    if kind in PLAIN:
        if type(value) is not PLAIN[kind]:
            raise ValueError(f"{where}: {value!r} is not a {kind}")
        return value
    model = getattr(training_models, kind, None) or getattr(pod_models, kind)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not a {kind}")
    if unknown := value.keys() - model.attribute_map.values():
        raise ValueError(f"{where}: {kind} has no {sorted(unknown)}")
    fields = {
        name: check_openapi(model.openapi_types[name], value[key], f"{where}.{key}")
        for name, key in model.attribute_map.items()
        if key in value
    }
    try:
        return model(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_pydantic(model: Any, value: dict[str, Any]) -> None:
    """Check with a model of ``kubeflow-trainer-api``, which drops unknown fields."""
    known = model.from_dict(copy.deepcopy(value)).to_dict()
    if known != value:
        raise ValueError(f"unknown fields: only {known} is read of {value}")


def check(document: dict[str, Any]) -> None:
    """Check a document with the schema of its kind."""
    match document["apiVersion"], document["kind"]:
        case "kubeflow.org/v1", "PyTorchJob":
            check_openapi("KubeflowOrgV1PyTorchJob", document)
        case "trainer.kubeflow.org/v1alpha1", ("TrainJob" | "TrainingRuntime") as kind:
            check_pydantic(getattr(trainer_models, f"TrainerV1alpha1{kind}"), document)
        case other:
            raise ValueError(f"there is no schema for {other}")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def pytorch_job() -> dict[str, Any]:
    [job] = documents("pytorchjob.yaml")
    return job


def test_every_manifest_follows_its_published_schema() -> None:
    kinds = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in documents(path.name):
            check(document)
            kinds.append(document["kind"])
    assert kinds == ["PyTorchJob", "TrainingRuntime", "TrainJob"]


Break = Callable[[Any], Any]


def of_worker(job: Any) -> Any:
    return job["spec"]["pytorchReplicaSpecs"]["Worker"]


def of_pod(job: Any) -> Any:
    return of_worker(job)["template"]["spec"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda job: job["spec"].update(nproc=8), r"no \['nproc'\]"),
        (lambda job: of_worker(job).update(restartpolicy="Never"), r"no \['restartpolicy'\]"),
        (lambda job: of_pod(job).update(gracePeriod=3), r"no \['gracePeriod'\]"),
        (lambda job: of_pod(job)["volumes"][2]["emptyDir"].update(size="1Gi"), r"no \['size'\]"),
        (lambda job: job["spec"].update(nprocPerNode=8), r"nprocPerNode: 8 is not a str"),
        (lambda job: job["spec"]["elasticPolicy"].update(maxRestarts="3"), r"maxRestarts: '3' is not a int"),
        (lambda job: of_pod(job)["containers"][0].update(args="fit"), r"args: 'fit' is not a list"),
        (lambda job: of_pod(job)["containers"][0]["env"][0].update(value=1), r"value: 1 is not a str"),
        (lambda job: of_pod(job).pop("containers"), "containers"),
        (lambda job: of_pod(job)["containers"][0].pop("name"), "name"),
        (lambda job: of_pod(job)["containers"][0]["volumeMounts"][0].pop("mountPath"), "mount_path"),
        (lambda job: job["spec"].pop("runPolicy"), "run_policy"),
        (lambda job: job["spec"].pop("pytorchReplicaSpecs"), "pytorch_replica_specs"),
        (lambda job: job.update(apiVersion="kubeflow.org/v2"), "no schema"),
    ],
)
def test_a_broken_pytorch_job_is_refused(broken: Break, message: str) -> None:
    job = pytorch_job()
    broken(job)
    with pytest.raises(ValueError, match=message):
        check(job)


def of_node(runtime: Any) -> Any:
    return runtime["spec"]["template"]["spec"]["replicatedJobs"][0]


@pytest.mark.parametrize(
    ("position", "broken"),
    [
        (0, lambda runtime: runtime["spec"]["mlPolicy"].update(nodes=2)),
        (0, lambda runtime: of_node(runtime).update(count=2)),
        (0, lambda runtime: of_node(runtime).pop("name")),
        (0, lambda runtime: of_node(runtime)["template"]["spec"]["template"]["spec"].pop("containers")),
        (0, lambda runtime: of_node(runtime)["template"]["spec"].update(backoffLimit="many")),
        (1, lambda job: job["spec"].pop("runtimeRef")),
        (1, lambda job: job["spec"]["runtimeRef"].pop("name")),
        (1, lambda job: job["spec"]["trainer"].update(numNodes="2")),
        (1, lambda job: job["spec"]["trainer"].update(gpus=8)),
        (1, lambda job: job["spec"]["trainer"]["env"][0].update(key="RUN")),
    ],
)
def test_a_broken_train_job_is_refused(position: int, broken: Break) -> None:
    document = documents("trainjob.yaml")[position]
    check(document)
    broken(document)
    with pytest.raises(ValueError):
        check(document)


def pods() -> dict[str, tuple[dict[str, Any], str]]:
    """Both manifests have the same pods and the same restarts."""
    job, (runtime, train_job) = pytorch_job(), documents("trainjob.yaml")
    pod = of_node(runtime)["template"]["spec"]["template"]["spec"]
    pod = copy.deepcopy(pod)
    pod["containers"][0] |= {key: train_job["spec"]["trainer"][key] for key in ("command", "args", "env")}
    pod["containers"][0]["resources"] = train_job["spec"]["trainer"]["resourcesPerNode"]
    return {"v1": (of_pod(job), of_worker(job)["restartPolicy"]), "v2": (pod, pod["restartPolicy"])}


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_a_pod_can_save_before_it_ends_and_starts_again(generation: str) -> None:
    pod, restart = pods()[generation]
    environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] > int(environment["STOP_SECONDS"])
    assert restart == "OnFailure"  # ExitCode takes 75 for a failure for good
    assert environment["RUNS_DIR"].startswith("/")


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_a_pod_has_shared_memory_within_its_own_and_every_mount_a_volume(generation: str) -> None:
    pod, _ = pods()[generation]
    [container] = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() >= {"/dev/shm", "/runs", "/data"} and set(mounts.values()) == volumes.keys()
    shared = volumes[mounts["/dev/shm"]]["emptyDir"]
    assert shared["medium"] == "Memory"
    gigabytes = [
        int(size.removesuffix("Gi"))
        for size in (shared["sizeLimit"], container["resources"]["limits"]["memory"])
    ]
    assert gigabytes[0] < gigabytes[1]


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_the_user_of_the_image_can_write_to_the_volumes(generation: str) -> None:
    security = pods()[generation][0]["securityContext"]
    groups = re.findall(r"^ARG GROUP_ID=(\d+)$", (ROOT / "Dockerfile").read_text(), flags=re.M)
    assert groups == [str(security["fsGroup"])]
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_a_pod_runs_what_is_there(generation: str) -> None:
    container = pods()[generation][0]["containers"][0]
    assert [ROOT / part for part in container["command"][1:]] == [SCRIPT]
    options = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert (ROOT / options["config"]).is_file()
    documented = SCRIPT.read_text()
    for entry in container["env"]:
        assert re.search(rf"\${{{entry['name']}:-", documented), entry


def test_one_process_a_gpu() -> None:
    job, train_job = pytorch_job(), documents("trainjob.yaml")[1]
    gpus = of_pod(job)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert job["spec"]["nprocPerNode"] == gpus
    assert of_worker(job)["replicas"] == job["spec"]["elasticPolicy"]["maxReplicas"]
    trainer = train_job["spec"]["trainer"]
    assert str(trainer["numProcPerNode"]) == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]


def launched_with(tmp_path: Path, environment: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Return the script's exit status and torchrun's arguments; an echo stands in for Python."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" >"${0%/*}/arguments"\n'
        'for mark in $MARKS; do : >"$LAUNCH_FOLDER/$mark"; done\nexit "${STATUS:-0}"\n'
    )
    python.chmod(0o755)
    given = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), **environment}
    command = ["bash", str(SCRIPT), *arguments]
    done = subprocess.run(command, env=given, cwd=tmp_path, timeout=200, check=False)
    written = tmp_path / "arguments"
    return done.returncode, written.read_text().splitlines() if written.is_file() else []


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_the_script_takes_what_each_operator_gives(tmp_path: Path) -> None:
    v1 = {"PET_NNODES": "2:2", "PET_NPROC_PER_NODE": "8", "PET_RDZV_ENDPOINT": "coco-worker-0:29400"}
    v1 |= {"PET_MAX_RESTARTS": "100", "RUNS_DIR": "/runs", "RUN_NAME": "coco"}
    status, arguments = launched_with(tmp_path, v1, "--data.root=/data")
    assert status == 0
    assert option(arguments, "--nnodes") == "2:2" and option(arguments, "--nproc-per-node") == "8"
    assert option(arguments, "--rdzv-endpoint") == "coco-worker-0:29400"
    assert option(arguments, "--max-restarts") == "100"
    assert option(arguments, "--runs_dir") == "/runs" and option(arguments, "--run_name") == "coco"
    assert option(arguments, "--ckpt_path") == "auto" and arguments[-1] == "--data.root=/data"
    v2 = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_NODE_RANK": "1"}
    v2 |= {"PET_MASTER_ADDR": "coco-node-0-0.coco", "PET_MASTER_PORT": "29400"}
    _, arguments = launched_with(tmp_path, v2)
    assert option(arguments, "--rdzv-endpoint") == "coco-node-0-0.coco:29400"
    assert option(arguments, "--rdzv-conf") == "is_host=0"
    _, arguments = launched_with(tmp_path, v2 | {"PET_NODE_RANK": "0"})
    assert option(arguments, "--rdzv-conf") == "is_host=1"


def test_the_script_hands_on_a_failure(tmp_path: Path) -> None:
    assert launched_with(tmp_path, {"NPROC_PER_NODE": "1", "STATUS": "3"})[0] == 3


@pytest.mark.parametrize(
    ("marks", "status", "expected"),
    [
        ("stopped.0", 0, 75),  # asked by a signal to another node
        ("stopped.0", 1, 1),  # ended by torchrun, because another process failed
        ("refused.0", 0, 2),
        ("refused.1 stopped.0", 1, 2),
    ],
)
def test_the_script_ends_as_its_processes_did(tmp_path: Path, marks: str, status: int, expected: int) -> None:
    environment = {"NPROC_PER_NODE": "1", "STATUS": str(status), "MARKS": marks}
    assert launched_with(tmp_path, environment)[0] == expected


@pytest.mark.parametrize("wrong", [{"NNODES": "2"}, {"RUNS_DIR": "runs"}])
def test_the_script_refuses_what_would_end_in_two_runs(tmp_path: Path, wrong: dict[str, str]) -> None:
    assert launched_with(tmp_path, {"NPROC_PER_NODE": "1", **wrong}) == (2, [])
