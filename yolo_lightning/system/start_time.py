"""Start of the program, from which the wall time of a run counts.

The package imports this file first. The start of the process would be the wrong moment: a shell script that
ends in ``exec yolo-lightning`` hands on its process, and its own work would count as the run's.
"""

from __future__ import annotations

import time

PROGRAM_BEGAN_S = time.monotonic()
"""First import of the package, on ``time.monotonic``'s clock."""
