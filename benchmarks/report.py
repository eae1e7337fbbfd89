"""``python -m benchmarks.report``: the table and plot of docs/benchmarks.md, from the JSON files of a run."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from .plan import REPOSITORY
from .results import Result, read_results

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
_ORDER = (
    "loader", "loader_12mp", "train", "train_nu", "fit_wall", "fit_fast", "ceiling", "checkpoints",
    "dashboard", "metric", "memory",
)  # fmt: skip
_PEER_VERSIONS = {"yolov5": "yolov5", "ultralytics": "ultralytics-opencv-headless"}
_DETAILS = {
    "best_map": "best mAP {:.3f}",
    "last_map": "last mAP {:.3f}",
    "perf/data_wait_fraction": "waits for data {:.1%}",
    "peak_growth_mb": "{:.0f} MB at most",
    "private_growth_mb": "its own pages grew by {:.1f} MB",
    "resident_growth_mb": "process grew by {:.0f} MB",
    "stall_s": "training held {:.2f} s",
    "held_ms": "of which training is held {:.0f} ms",
}
"""Details that the table shows, as the mean over the rounds."""


def main(argv: list[str] | None = None) -> int:
    """Write the table between the markers of the page, and the plot into ``images`` beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    options = parser.parse_args(argv)
    results = {name: result for name, result in read_results(options.results).items() if not result["toy"]}
    if not results:
        print(
            f"{options.results}: has no results but toys; run python -m benchmarks.run first", file=sys.stderr
        )
        return 1
    text = tables(results)
    plot = options.page.parent / "images" / "throughput.png"
    if draw(results, plot):
        print(f"plot: {plot}")
    changed = insert(options.page.read_text(), text)
    if changed is None:
        print(f"{options.page}: lacks the lines {BEGIN} and {END}; add them", file=sys.stderr)
        print(text)
        return 1
    options.page.write_text(changed)
    print(f"table: {options.page}")
    return 0


def insert(page: str, text: str) -> str | None:
    """The page with the text between its two markers; None when it lacks them."""
    begin, end = page.find(BEGIN), page.find(END)
    if begin < 0 or end < begin:
        return None
    return f"{page[: begin + len(BEGIN)]}\n{text}{page[end:]}"


def tables(results: dict[str, Result]) -> str:
    """Markdown: the machines, and a row for each contender of each benchmark."""
    lines = [*_places(results), ""]
    lines += ["| benchmark | contender | median (min to max) | ours against it | |", "|---|---|---|---|---|"]
    for result in _ordered(results):
        title = result["title"]
        for name, contender in result["contenders"].items():
            lines.append(f"| {title} | {' | '.join(_row(result, name, contender))} |")
            title = ""
    notes = list(dict.fromkeys(note for result in _ordered(results) for note in result["notes"]))
    lines += ["", *(f"{note[0].upper()}{note[1:]}." for note in notes), "", *_programs(results)]
    return "\n".join(lines) + "\n"


def _programs(results: dict[str, Result]) -> list[str]:
    """A line for each program of a contender, with the benchmarks that ran it."""
    same: dict[tuple[str, str], list[str]] = {}
    for result in _ordered(results):
        for name, contender in result["contenders"].items():
            same.setdefault((name, contender["does"]), []).append(result["benchmark"])
    return [f"* {', '.join(benchmarks)}: {name}: {does}" for (name, does), benchmarks in same.items()]


def _ordered(results: dict[str, Result]) -> list[Result]:
    return [results[name] for name in _ORDER if name in results]


def _places(results: dict[str, Result]) -> list[str]:
    """One sentence for each machine, day and commit that results come from."""
    sentences = []
    for result in _ordered(results):
        machine = result["machine"]
        sentence = (
            f"{machine['cpu']}, {machine['cores_used']} of {machine['cores']} cores, {machine['ram_gb']} GB; "
            f"{result['date']}, commit {str(result['commit'])[:12]}{_versions(result)}"
        )
        sentences.append((sentence, result["benchmark"]))
    return [
        f"{', '.join(name for other, name in sentences if other == sentence)}: {sentence}.  "
        for sentence in dict.fromkeys(sentence for sentence, _ in sentences)
    ]


def _versions(result: Result) -> str:
    """Versions of the contenders and of torch."""
    parts = {}
    for name, contender in result["contenders"].items():
        versions = contender.get("versions", {})
        peer = name.split(",")[0]
        package = _PEER_VERSIONS.get(peer)
        if package in versions:
            parts[peer] = f"{peer} {versions[package]}"
        if "torch" in versions:
            parts["torch"] = f"torch {versions['torch']}"
    return "".join(f"; {part}" for part in parts.values())


def _row(result: Result, name: str, contender: dict[str, Any]) -> list[str]:
    """Cells of a row: contender, reading, ratios, details."""
    if "median" not in contender:
        return [name, f"failed: {contender.get('failed', 'not run')}".replace("|", "/"), "", ""]
    unit = contender["unit"]
    median, low, high = (_figure(contender[key]) for key in ("median", "min", "max"))
    reading = f"{median} {unit}" if low == high else f"{median} ({low} to {high}) {unit}"
    ratios = []
    for pair, ratio in result["ratios"].items():
        ours, theirs = pair.split(" / ")
        if theirs == name:
            ratios.append(f"{ratio['median']:#.3g}".rstrip(".") + f"x ({ours})")
    return [name, reading, "<br>".join(ratios), "; ".join(_details(contender["details"]))]


def _figure(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _details(details: list[dict[str, Any]]) -> list[str]:
    return [
        form.format(statistics.mean(reading[key] for reading in details))
        for key, form in _DETAILS.items()
        if all(isinstance(reading.get(key), (int, float)) for reading in details)
    ]


def draw(results: dict[str, Result], path: Path) -> bool:
    """Draw a panel of bars for each benchmark in images a second; False if there is none."""
    shown = [
        result
        for result in _ordered(results)
        if result["unit"] == "images/s" and any("median" in c for c in result["contenders"].values())
    ]
    if not shown:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [len(result["contenders"]) for result in shown]
    figure, panels = pyplot.subplots(
        len(shown),
        squeeze=False,
        figsize=(9, sum(0.34 * count + 0.75 for count in counts)),
        gridspec_kw={"height_ratios": counts},
    )
    for panel, result in zip(panels[:, 0], shown, strict=True):
        _draw_panel(panel, result)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _draw_panel(panel: Any, result: Result) -> None:
    """Draw the medians with the range of their readings; ours in another colour."""
    bars = {name: c for name, c in result["contenders"].items() if "median" in c}
    medians = [c["median"] for c in bars.values()]
    below = [c["median"] - c["min"] for c in bars.values()]
    above = [c["max"] - c["median"] for c in bars.values()]
    colours = ["#1f6f8b" if c["is_ours"] else "#b8b8b8" for c in bars.values()]
    panel.barh(range(len(bars)), medians, color=colours, height=0.7, xerr=(below, above), ecolor="#444444")
    panel.set_yticks(range(len(bars)), bars)
    panel.invert_yaxis()
    most = max(c["max"] for c in bars.values())
    panel.set_xlim(0, most * 1.12)
    for place, contender in enumerate(bars.values()):
        panel.text(contender["max"] + most * 0.01, place, _figure(contender["median"]), va="center")
    panel.set_title(f"{result['title']}, {result['unit']}", fontsize=9, loc="left")
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
