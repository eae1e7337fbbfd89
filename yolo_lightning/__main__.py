"""``python -m yolo_lightning`` and the console command ``yolo-lightning``."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext

from .distributed.failure import FailedElsewhere
from .errors import InputError
from .system.signals import watching
from .system.text import last_line


def main(argv: list[str] | None = None) -> None:
    """Run the command line; wrong input ends with one sentence and status 2.

    Args:
        argv: arguments after the program's name; those of the process if left out.
    """
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a letter that the locale lacks must not end a run
    # Only training has something to save before it ends. What takes seconds to import comes after.
    with watching(is_program=argv is None) if arguments[:1] == ["fit"] else nullcontext():
        _run(arguments)


def _run(arguments: list[str]) -> None:
    try:
        from .cli.main import run

        run(arguments)
    except FailedElsewhere:
        sys.exit(2)
    except InputError as error:
        sys.exit(_fail(last_line(error)))
    except Exception as error:
        if "failed to map segment" in str(error):  # torch itself cannot be loaded
            sys.exit(_fail(f"{error}: too few addresses for this process; raise ulimit -v"))
        from .runs.checkpoint_files import full_disk_error
        from .system.out_of_memory import describe_out_of_memory

        if memory := describe_out_of_memory(error):
            sys.exit(_fail(f"{memory}; close other programs, or raise the limit, and start again"))
        full = full_disk_error(error)
        if full is None:
            raise
        where = full.filename or "the output folder"
        sys.exit(_fail(f"{where}: {full.strerror}; make room and start again"))


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
