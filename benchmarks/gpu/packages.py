"""Wheels that were carried to a machine without a network, unpacked beside what it has."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path


def unpack(wheels: Path | None, site: Path) -> Path:
    """A folder with the contents of every wheel, to be put behind the machine's own packages.

    Args:
        wheels: folder with ``*.whl``; None leaves the folder empty.
        site: the folder, made anew when the wheels are others than last time.

    Raises:
        FileNotFoundError: there is no wheel in ``wheels``.
    """
    files = sorted(wheels.glob("*.whl")) if wheels else []
    if wheels and not files:
        raise FileNotFoundError(
            f"{wheels}: holds no wheels; 'python -m benchmarks.gpu.wheels {wheels}' gets them"
        )
    receipt, wanted = site / "unpacked.txt", "\n".join(path.name for path in files)
    if receipt.is_file() and receipt.read_text() == wanted:
        return site
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for path in files:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)
    receipt.write_text(wanted)
    return site
