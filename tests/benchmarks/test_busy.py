from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import busy
from benchmarks.contenders import beside


def test_orders_alternate_and_ratios_are_taken_round_by_round() -> None:
    names = busy.order(2)
    assert names == [*busy.SETTINGS, *reversed(busy.SETTINGS)]
    speeds = {"alone": 20, "beside 1": 12, "beside 3": 6, "alone, spinning": 20, "beside 1, spinning": 4}
    found = busy.summarise(names, [speeds[name] * (1 if n < 5 else 2) for n, name in enumerate(names)])
    assert found["images_per_second"]["beside 3"]["readings"] == [6, 12]
    assert found["ratios"]["beside 1 / alone"]["rounds"] == pytest.approx([0.6, 0.6])
    assert found["ratios"]["beside 1 / beside 1, spinning"]["median"] == pytest.approx(3)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_busy_program_is_no_child_of_the_training() -> None:
    number = beside._start_busy()
    try:
        parent = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent != os.getpid()
        assert os.getsid(number) != os.getsid(0)
    finally:
        os.kill(number, 9)
