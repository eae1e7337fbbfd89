"""The cost model of benchmarks/scaling.py against numbers worked out by hand."""

import pytest

from benchmarks.scaling import (
    Cluster,
    Link,
    all_reduce_ms,
    largest_worth,
    main,
    parse,
    ring_all_reduce_ms,
    scale,
)

ONE_GB_S = Link(gigabytes_s=1.0, latency_us=100.0)


def test_one_member_has_nothing_to_add() -> None:
    assert ring_all_reduce_ms(1e9, 1, ONE_GB_S) == 0


def test_a_ring_of_four() -> None:
    """6 messages of 1 MB at 1 GB/s are 6 ms, and 6 times 0.1 ms of latency."""
    assert ring_all_reduce_ms(4e6, 4, ONE_GB_S) == pytest.approx(6.6)


def test_a_large_ring_sends_the_payload_twice() -> None:
    without_latency = Link(gigabytes_s=1.0, latency_us=0.0)
    assert ring_all_reduce_ms(10e6, 1000, without_latency) == pytest.approx(2 * 10 * 999 / 1000)


def test_two_nodes_of_two() -> None:
    """Inside: 2 messages of 1 MB at 10 GB/s, 0.2 ms; between: 2 of 1 MB at 1 GB/s and 0.2 ms of latency."""
    cluster = Cluster(gpus_a_node=2, inside=Link(10.0, 0.0), between=ONE_GB_S)
    assert all_reduce_ms(2e6, 2, cluster) == pytest.approx(0.2)
    assert all_reduce_ms(2e6, 4, cluster) == pytest.approx(0.2 + 2.0 + 0.2)
    assert all_reduce_ms(2e6, 3, cluster) == all_reduce_ms(2e6, 4, cluster)  # a node that is not full


def test_a_row() -> None:
    """1,000,000 gradients of 4 bytes: 2 messages of 2 MB at 1 GB/s are 4 ms, beside a step of 16 ms."""
    cluster = Cluster(gpus_a_node=2, inside=Link(1.0, 0.0))
    options = {"step_ms": 16.0, "batch_size": 8, "parameters": 1_000_000, "cluster": cluster}
    row = scale(2, **options)  # type: ignore[arg-type]
    assert (row.images_a_step, row.communication_ms, row.step_ms) == (16, pytest.approx(4), pytest.approx(20))
    assert row.images_s == pytest.approx(800)
    assert row.efficiency == pytest.approx(0.8)
    assert scale(2, gradient_bytes=2, **options).step_ms == pytest.approx(18)  # type: ignore[arg-type]
    assert scale(2, overlap=0.75, **options).step_ms == pytest.approx(17)  # type: ignore[arg-type]
    alone = scale(1, **options)  # type: ignore[arg-type]
    assert (alone.efficiency, alone.images_s) == (1.0, pytest.approx(500))


def test_more_gpus_are_worth_it_until_the_first_row_below() -> None:
    cluster = Cluster(gpus_a_node=1, between=Link(1.0, 0.0))
    rows = [scale(n, step_ms=6, batch_size=1, parameters=250_000, cluster=cluster) for n in (8, 1, 2, 4)]
    # 1 MB: 1 ms on two, 1.5 on four, 1.75 on eight; of 7, 7.5 and 7.75 ms.
    assert [round(row.efficiency, 3) for row in rows] == [0.774, 1.0, 0.857, 0.8]
    assert largest_worth(rows) == 4
    assert largest_worth(rows[:1]) == 0


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--step_ms=16 --batch_size=512 --parameters=1000000 --gpus 1 2 4 --inside_gb_s=1 --inside_us=0"
    main(options.split())
    printed = capsys.readouterr().out
    assert "| 2 | 1,024 | 4.00 | 20.0 | 51,200 | 80% |" in printed
    assert "up to 2 GPUs; a step has at most 1,024 images up to 2 GPUs" in printed


@pytest.mark.parametrize("wrong", ["--step_ms=0", "--overlap=1.5", "--between_gb_s=-1"])
def test_what_cannot_be_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--step_ms=1", "--batch_size=1", "--parameters=1", wrong])
