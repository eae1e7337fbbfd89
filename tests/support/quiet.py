"""Options of a run that shows nothing of itself, for tests of something else."""

QUIET = (
    "--dashboard.pictures=0", "--dashboard.curves=false",
    "--dashboard.graph=false", "--dashboard.report=false",
)  # fmt: skip
LOUD = (
    "--dashboard.pictures=8", "--dashboard.curves=true",
    "--dashboard.graph=true", "--dashboard.report=true",
)  # fmt: skip
"""Takes them back: of an option that is given twice the last one counts."""
