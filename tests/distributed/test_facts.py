import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import Namespace

from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.distributed import facts
from yolo_lightning.distributed.facts import (
    RULES,
    compare_facts,
    facts_of_run,
    index_digest,
    index_facts,
    machine_facts,
    why_invisible,
    why_too_little_room,
)
from yolo_lightning.model.network import build_network

HOSTS = {0: "a", 1: "b", 2: "b", 3: "c"}


@pytest.fixture(scope="module")
def index(shapes: Path) -> DatasetIndex:
    return DataSource(root=shapes).read("train")


def test_a_data_set_in_another_place_has_the_same_digest(
    index: DatasetIndex, shapes: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(shapes, tmp_path / "mounted" / "elsewhere")
    assert index_digest(DataSource(root=elsewhere).read("train")) == index_digest(index)


def test_a_renamed_picture_changes_the_digest(index: DatasetIndex) -> None:
    assert index.path_bytes.count(b"/") > 0
    first = index.path_bytes[: index.path_offsets[1]]
    renamed = replace(index, path_bytes=first[:-5] + b"~" + index.path_bytes[len(first) - 4 :])
    assert len(renamed.path_bytes) == len(index.path_bytes)
    assert index_digest(renamed) != index_digest(index)


@pytest.mark.parametrize(
    "name",
    ["image_ids", "sizes", "offsets", "classes", "boxes", "areas", "crowd", "trainable", "category_ids"],
)
def test_every_array_counts_in_the_digest(index: DatasetIndex, name: str) -> None:
    changed = getattr(index, name).copy()
    changed.flat[-1] = (
        not changed.flat[-1]
        if changed.dtype == bool
        else np.nextafter(changed.flat[-1], np.inf)
        if changed.dtype.kind == "f"
        else changed.flat[-1] + 1
    )
    assert index_digest(replace(index, **{name: changed})) != index_digest(index)


def test_class_names_and_split_count_in_the_digest(index: DatasetIndex) -> None:
    others = [replace(index, split="val"), replace(index, class_names=index.class_names[::-1])]
    assert len({index_digest(i) for i in (index, *others)}) == 3


def test_the_digest_is_told_with_the_numbers(index: DatasetIndex) -> None:
    (value,) = index_facts({"train": index}).values["index"].values()
    assert value.startswith(f"10 images, {len(index.boxes)} labels, digest ")


def test_what_is_visible(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert why_invisible(tmp_path, "data.root") is None
    assert why_invisible(tmp_path / "file", "data.root") is None
    (tmp_path / "empty").mkdir()
    assert "empty: is empty on this host" in str(why_invisible(tmp_path / "empty", "data.root"))
    gone = why_invisible(tmp_path / "gone", "data.root")
    assert gone == f"{tmp_path}/gone: does not exist on this host; mount it there or correct --data.root"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="an administrator reads everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    assert "cannot be read (Permission denied)" in str(why_invisible(tmp_path, "data.root"))
    tmp_path.chmod(0o700)


def test_a_file_system_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: float) -> object:
        raise TimeoutError("no answer")

    monkeypatch.setattr(facts, "bounded", lambda _, seconds: hang(seconds))
    assert "does not answer within 50 s on this host" in str(why_invisible(tmp_path, "data.root"))
    assert "does not answer within 50 s; make room" in str(why_too_little_room(tmp_path, 1, "make room"))


def test_room_is_asked_of_the_file_system_that_the_folder_is_going_to_be_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "fit"
    free = shutil.disk_usage(tmp_path).free
    assert why_too_little_room(folder, free // 2, "make room") is None
    assert why_too_little_room(folder, 0, "make room") is None
    told = why_too_little_room(folder, free + (1 << 50), "make room")
    assert told is not None and told.startswith(f"{folder}: ") and told.endswith(" GB are free; make room")


def test_facts_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "PACKAGES", ["numpy", "no-such-package"])
    found = machine_facts()
    assert set(found) <= set(RULES)
    assert found["package"] == {"numpy": np.__version__, "no-such-package": "not installed"}
    assert found["build"]["torch"] == torch.__version__
    assert found["gpus"] == {"the number of GPUs that a process sees": str(torch.cuda.device_count())}


def values(**kinds: dict[str, str]) -> dict[str, dict[str, str]]:
    return kinds


def test_equal_facts_are_no_difference() -> None:
    same = values(package={"torch": "2.8"}, option={"a": "1"})
    assert compare_facts(dict.fromkeys(range(4), same), HOSTS) == ("", [])


def test_a_difference_names_key_ranks_hosts_both_values_and_the_remedy() -> None:
    old, new, newer = (values(package={"torch": v}) for v in ("2.8", "2.9", "2.10"))
    wrong, warnings = compare_facts({0: old, 1: new, 2: new, 3: newer}, HOSTS)
    assert wrong == (
        "torch is 2.8 on rank 0 on a but 2.9 on ranks 1, 2 on b, 2.10 on rank 3 on c; "
        "install the same version on all hosts"
    )
    assert warnings == []


def test_what_only_deserves_a_warning() -> None:
    own = values(patch={"Python": "3.11.1"}, gpu={"the GPU": "A100"})
    other = values(patch={"Python": "3.11.2"}, gpu={"the GPU": "H100"})
    wrong, warnings = compare_facts({0: own, 1: other}, HOSTS)
    assert wrong == ""
    assert [sentence.split(" is ")[0] for sentence in warnings] == ["Python", "the GPU"]


def test_one_difference_is_not_told_twice() -> None:
    own = values(package={"torch": "2.8"}, build={"torch": "2.8+cu128"}, python={"Python": "3.11"})
    other = values(package={"torch": "2.9"}, build={"torch": "2.9+cu128"}, python={"Python": "3.12"})
    own["patch"], other["patch"] = {"Python": "3.11.1"}, {"Python": "3.12.1"}
    wrong, warnings = compare_facts({0: own, 1: other}, HOSTS)
    assert [sentence.split(" is ")[0] for sentence in wrong.split(" | ")] == ["torch", "Python"]
    assert warnings == []


@pytest.mark.parametrize("kind", [kind for kind, rule in RULES.items() if rule.is_error])
def test_every_other_kind_is_an_error(kind: str) -> None:
    wrong, warnings = compare_facts({0: {kind: {"x": "1"}}, 1: {kind: {}}}, HOSTS)
    assert wrong == f"x is 1 on rank 0 on a but unknown on rank 1 on b; {RULES[kind].remedy}"
    assert warnings == []


def test_many_differences_and_long_values_stay_readable() -> None:
    own = values(option={f"o{i}": "x" * 1000 for i in range(9)})
    other = values(option={f"o{i}": "y\ny" for i in range(9)})
    wrong, _ = compare_facts({0: own, 1: other}, HOSTS)
    assert wrong.endswith(" | and 4 other differences")
    assert "y y on rank 1 on b" in wrong and "\n" not in wrong
    assert "x" * 120 + "…" in wrong and "x" * 121 not in wrong


def all_options(root: Path, ckpt_path: Path | None = None, **data: Any) -> Namespace:
    paths = {
        f"{split}_{kind}": None for split in ("train", "val", "test") for kind in ("annotations", "images")
    }
    given = {"image_size": 64, "batch_size": 2, "num_workers": 0, **data}
    return Namespace(
        trainer=Namespace(accelerator="cpu", devices=2, num_nodes=1),
        data=Namespace(root=str(root), **given, **paths),
        model=Namespace(architecture="yolov5n", num_classes=3),
        ckpt_path=ckpt_path and str(ckpt_path),
        runs_dir=str(root),
    )


def test_options_by_dotted_name_without_those_that_may_differ(tmp_path: Path) -> None:
    options = all_options(tmp_path, predict_source=["a", "b"], cache=None)
    told = facts_of_run(options, tmp_path, is_training=False).values["option"]
    assert told["data.predict_source"] == "['a', 'b']"
    assert (told["data.cache"], told["trainer.accelerator"]) == ("None", "cpu")
    assert not {"data.root", "runs_dir"} & told.keys()


def test_facts_name_what_a_rank_does_not_see(tmp_path: Path) -> None:
    found = facts_of_run(all_options(tmp_path / "away"), tmp_path, is_training=True)
    [problem] = found.problems
    assert "away" in problem and "data.root" in problem
    assert found.values["option"]["model.architecture"] == "yolov5n"
    assert not any("root" in name or "runs_dir" in name for name in found.values["option"])


def test_a_resumed_checkpoint_is_compared_by_its_step_also_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"12345")
    found = facts_of_run(all_options(tmp_path, path), tmp_path, is_training=False, step=700)
    [value] = found.values["checkpoint"].values()
    assert value == f"{path} at step 700 (5 bytes)"
    path.unlink()
    found = facts_of_run(all_options(tmp_path, path), tmp_path, is_training=False, step=700)
    assert [problem for problem in found.problems if "ckpt_path" in problem]


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that are asked for, by the name of the folder; too many for each."""
    asked: dict[str, int] = {}

    def no_room(folder: Path, need: int, remedy: str) -> str:
        asked[folder.name] = need
        return f"{folder.name} is full; {remedy}"

    monkeypatch.setattr(facts, "why_too_little_room", no_room)
    return asked


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
@pytest.mark.parametrize(
    ("local_rank", "workers", "shared_memory"),
    [(0, 3, 2 * 3 * 2 * 8 * 3 * (640 + 64) ** 2), (1, 3, 0), (0, 0, 0), (0, "auto", 0)],
)
def test_the_first_process_of_a_host_counts_the_shared_memory_of_all(
    variable: str,
    local_rank: int,
    workers: int | str,
    shared_memory: int,
    needed: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(local_rank))
    options = all_options(tmp_path, image_size=640, batch_size=8, num_workers=workers)
    facts_of_run(options, tmp_path, is_training=True)
    assert needed["shm"] == shared_memory  # auto: on a CPU there are no workers


def test_there_is_room_for_four_checkpoints(needed: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "image.jpg").touch()
    found = facts_of_run(all_options(tmp_path), tmp_path / "runs", is_training=True)
    parameters = sum(p.numel() for p in build_network("yolov5n", 3).parameters())
    assert needed["runs"] == 4 * 12 * parameters  # best, last, last.previous, and the one that is written
    runs, shm = found.problems
    assert runs == "runs is full; make room, or choose another place with --runs_dir"
    assert shm.startswith("shm is full; mount it larger, or give fewer --data.num_workers")


def test_without_training_there_is_no_checkpoint(needed: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "image.jpg").touch()
    facts_of_run(all_options(tmp_path), tmp_path / "runs", is_training=False)
    assert "runs" not in needed
