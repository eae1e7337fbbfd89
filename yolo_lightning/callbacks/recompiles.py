"""Which functions torch.compile has compiled again."""

from __future__ import annotations

import sys
from typing import Any

from ..diagnosis import Recompilation


class RecompilationReader:
    """Reads what was compiled again since it was last asked.

    torch keeps the facts of its last 64 compilations; the first one of a function gives no reason
    for compiling again. Nothing is imported: before torch's compiler is loaded, nothing is compiled.
    """

    def __init__(self) -> None:
        self._last: Any = None
        """The newest record that was read."""

    def read(self) -> list[Recompilation]:
        """The recompilations since the last call, the oldest first; at most as many as torch keeps."""
        compiler = sys.modules.get("torch._dynamo.utils")
        records: list[Any] = compiler.get_compilation_metrics() if compiler else []
        known = next((i for i, record in enumerate(records) if record is self._last), -1)
        new = records[known + 1 :]
        self._last = records[-1] if records else None
        seconds: dict[str, float] = {}
        for record in new:  # forward and backward passes have a record each, under the same id
            seconds[record.compile_id] = seconds.get(record.compile_id, 0.0) + (record.duration_us or 0) / 1e6
        return [
            Recompilation(str(record.co_name), record.recompile_reason, seconds[record.compile_id])
            for record in new
            if record.recompile_reason
        ]
