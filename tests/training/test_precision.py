from pathlib import Path

import pytest
import torch

from tests.support.small_network import write_small_yaml
from yolo_lightning.model.network import build_network
from yolo_lightning.system.environment import processor_facts
from yolo_lightning.training import precision as rule
from yolo_lightning.training.precision import (
    default_precision,
    fp16_is_sound,
    has_native_bf16,
    usable_precision,
)


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [
        ("cpu", True, "bf16-mixed"),
        ("cpu", False, "32-true"),
        ("cuda:1", True, "bf16-mixed"),
        ("cuda", False, "16-mixed"),
        ("mps", False, "32-true"),
    ],
)
def test_the_rule_follows_the_device(
    device: str, has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "has_native_bf16", lambda _: has_bf16)
    precision, reason = default_precision(device)
    assert precision == expected
    assert ("gains nothing from bfloat16" in reason) is not has_bf16


@pytest.mark.parametrize(
    ("lines", "limit", "expected"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16", None, True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16", "AVX2", False),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16", "avx512_core_amx", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16", None, False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16", None, True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16", "AVX2", False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16", "AVX512_CORE_VNNI", False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16", "AVX512_CORE_BF16", True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2", None, False),
        ("Features\t: fp asimd bf16", None, True),
    ],
)
def test_a_cpu_has_bf16_where_its_flags_promise_a_gain_and_onednn_may_use_it(
    lines: str, limit: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{lines}\n\nprocessor\t: 1\n")
    facts = processor_facts(tmp_path / "cpuinfo")
    assert facts["processor"] == "0"
    monkeypatch.setattr(rule, "processor_facts", lambda: facts)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_native_bf16("cpu") is expected
    assert has_native_bf16("mps") is False
    assert processor_facts(tmp_path / "missing") == {}


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), True), ((7, 5), False)])
def test_a_gpu_has_bf16_from_ampere_on(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16("cuda:0") is expected


@pytest.mark.parametrize(
    ("precision", "is_sound", "has_bf16", "expected"),
    [
        ("16-mixed", True, False, "16-mixed"),
        ("16-mixed", False, True, "bf16-mixed"),
        ("16", False, False, "32-true"),
        ("bf16-mixed", False, False, "bf16-mixed"),
    ],
)
def test_fp16_that_fails_its_test_is_replaced(
    precision: str, is_sound: bool, has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "has_native_bf16", lambda _: has_bf16)
    found, sentence = usable_precision(precision, "cuda:0", lambda: is_sound)
    assert found == expected
    assert (sentence is None) is (found == precision)
    assert sentence is None or f"training in {expected} instead" in sentence


def test_the_test_of_fp16_runs_the_network_in_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_small_yaml(tmp_path, anchors=True)
    random = torch.get_rng_state()
    assert fp16_is_sound("cpu", yaml, 3, (64, 64))
    assert torch.equal(torch.get_rng_state(), random)  # the weights of the training are drawn from there

    def build(*_: object) -> torch.nn.Module:
        network = build_network(yaml, 3)
        with torch.no_grad():
            network.head.m[0].bias.fill_(1e5)  # more than fp16 holds
        return network

    monkeypatch.setattr(rule, "build_network", build)
    assert not fp16_is_sound("cpu", yaml, 3, (64, 64))
