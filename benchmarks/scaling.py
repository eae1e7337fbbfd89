"""What a step costs on many GPUs: computing, and adding the gradients up over the links between them.

    python -m benchmarks.scaling --step_ms 100 --batch_size 16 --parameters 7235389

prints a table from one GPU to 1,024. Nothing here is measured: the step time and the links are what you
give, and the answer is no better than they are. Take ``perf/step_ms`` of a run on one of your GPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

FP32_BYTES, BF16_BYTES = 4, 2
"""Bytes of one gradient as it travels, without and with ``--ddp.compress_gradients``."""
WORTH_IT = 0.8
"""Efficiency below which more GPUs are called a waste."""
MOST_IMAGES_A_STEP = 1024
"""Images a step above which this recipe is unproved: 16 times the 64 that classic YOLOv5 was tuned for."""


@dataclass(frozen=True)
class Link:
    """A link between two neighbours of a ring, as each of them sees it."""

    gigabytes_s: float
    """Bandwidth in one direction, 10^9 bytes a second."""
    latency_us: float
    """Time of an empty message, microseconds."""


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs; only the number of GPUs varies in a table."""

    gpus_a_node: int = 8
    inside: Link = Link(gigabytes_s=200.0, latency_us=5.0)
    """Between the GPUs of a node."""
    between: Link = Link(gigabytes_s=25.0, latency_us=15.0)
    """Between nodes; all GPUs of a node together."""


@dataclass(frozen=True)
class Row:
    """What a number of GPUs gives."""

    gpus: int
    images_a_step: int
    communication_ms: float
    step_ms: float
    images_s: float
    efficiency: float
    """Images a second of one GPU here, relative to one GPU alone."""


def ring_all_reduce_ms(payload_bytes: float, members: int, link: Link) -> float:
    """Time to add up ``payload_bytes`` over a ring.

    Each of W members sends 2 (W - 1) messages of 1 / W of the payload: W - 1 to add, W - 1 to spread.
    """
    messages = 2 * (members - 1)
    return messages * (payload_bytes / members / (link.gigabytes_s * 1e9) * 1e3 + link.latency_us * 1e-3)


def all_reduce_ms(payload_bytes: float, gpus: int, cluster: Cluster) -> float:
    """Time to add up ``payload_bytes`` over all GPUs: within the nodes, between them, and back.

    Within a node a ring adds and at the end spreads the sum, which together are one ring all-reduce. In
    between, the nodes form a ring in which the GPUs of a node share its link, each with its own part
    of the payload; together they send all of it.
    """
    inside = min(gpus, cluster.gpus_a_node)
    nodes = -(-gpus // cluster.gpus_a_node)
    return ring_all_reduce_ms(payload_bytes, inside, cluster.inside) + ring_all_reduce_ms(
        payload_bytes, nodes, cluster.between
    )


def scale(
    gpus: int,
    *,
    step_ms: float,
    batch_size: int,
    parameters: int,
    cluster: Cluster,
    gradient_bytes: int = FP32_BYTES,
    overlap: float = 0.0,
) -> Row:
    """What a number of GPUs gives.

    Args:
        gpus: the number.
        step_ms: time of forward, backward and optimizer on one GPU alone.
        batch_size: images a GPU and batch.
        parameters: of the network.
        cluster: what joins the GPUs.
        gradient_bytes: of one gradient as it travels.
        overlap: part of the exchange that hides behind the backward pass, 0 to 1.
    """
    whole = all_reduce_ms(parameters * gradient_bytes, gpus, cluster)
    shown = whole * (1 - overlap)
    return Row(
        gpus=gpus,
        images_a_step=gpus * batch_size,
        communication_ms=whole,
        step_ms=step_ms + shown,
        images_s=gpus * batch_size / (step_ms + shown) * 1e3,
        efficiency=step_ms / (step_ms + shown),
    )


def largest_worth(rows: Sequence[Row], threshold: float = WORTH_IT) -> int:
    """The most GPUs with at least this efficiency, up to which every row has it."""
    best = 0
    for row in sorted(rows, key=lambda row: row.gpus):
        if row.efficiency < threshold:
            break
        best = row.gpus
    return best


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown."""
    lines = [
        "| GPUs | images a step | exchange ms | step ms | images/s | efficiency |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.gpus:,} | {row.images_a_step:,} | {row.communication_ms:.2f} | {row.step_ms:.1f} "
            f"| {row.images_s:,.0f} | {row.efficiency:.0%} |"
        )
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """Where it stops paying, in words."""
    fast = largest_worth(rows)
    held = max((row.gpus for row in rows if row.images_a_step <= MOST_IMAGES_A_STEP), default=0)
    return (
        f"Efficiency stays at {WORTH_IT:.0%} or more up to {fast:,} GPUs; a step has at most "
        f"{MOST_IMAGES_A_STEP:,} images up to {held:,} GPUs."
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _part(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, from the command line if left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    cluster = Cluster()
    parser.add_argument("--step_ms", type=_positive, required=True, help="step on one GPU alone, ms")
    parser.add_argument("--batch_size", type=int, required=True, help="images a GPU and batch")
    parser.add_argument("--parameters", type=int, required=True, help="of the network")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--gpus_a_node", type=int, default=cluster.gpus_a_node)
    parser.add_argument("--inside_gb_s", type=_positive, default=cluster.inside.gigabytes_s, help="GB/s")
    parser.add_argument(
        "--inside_us", type=_at_least_zero, default=cluster.inside.latency_us, help="latency, µs"
    )
    parser.add_argument("--between_gb_s", type=_positive, default=cluster.between.gigabytes_s, help="GB/s")
    parser.add_argument(
        "--between_us", type=_at_least_zero, default=cluster.between.latency_us, help="latency, µs"
    )
    parser.add_argument("--compress", action="store_true", help="gradients travel as bfloat16")
    parser.add_argument("--overlap", type=_part, default=0.0, help="part of the exchange hidden, 0..1")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse(argv)
    cluster = Cluster(
        gpus_a_node=options.gpus_a_node,
        inside=Link(options.inside_gb_s, options.inside_us),
        between=Link(options.between_gb_s, options.between_us),
    )
    rows = [
        scale(
            gpus,
            step_ms=options.step_ms,
            batch_size=options.batch_size,
            parameters=options.parameters,
            cluster=cluster,
            gradient_bytes=BF16_BYTES if options.compress else FP32_BYTES,
            overlap=options.overlap,
        )
        for gpus in options.gpus
    ]
    print(table(rows))
    print()
    print(verdict(rows))


if __name__ == "__main__":
    main()
