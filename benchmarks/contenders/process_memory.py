"""Memory of Linux processes, read from /proc."""

from __future__ import annotations

import re
from pathlib import Path


def status_mb(pid: int | str, field: str) -> float:
    """A field of ``/proc/PID/status`` in MB, such as VmRSS, RssAnon or VmHWM."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found, f"no {field} for process {pid}"
    return int(found.group(1)) * 1024 / 1e6


def private_mb(pid: int | str) -> float:
    """What a process shares with no other: copies that it made of its parent's pages show here."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE)) * 1024 / 1e6


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())


def restart_peak() -> None:
    """Let VmHWM of this process count from now on."""
    Path("/proc/self/clear_refs").write_text("5")
