"""Start of the program, from which the wall time of a run counts.

The package imports this file first. The start of the process would be the wrong moment: a shell script that
ends in ``exec yolo-lightning`` hands on its process, and its own work would count as the run's.
"""

from __future__ import annotations

import time

_began_s = time.monotonic()


def program_began_s() -> float:
    """First import of the package, or the last call of ``begin_anew``, on ``time.monotonic``'s clock."""
    return _began_s


def begin_anew() -> None:
    """Count from now on: the run is one of several in its program, which may have begun hours ago."""
    global _began_s
    _began_s = time.monotonic()
