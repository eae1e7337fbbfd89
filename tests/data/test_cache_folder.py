from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.mounts import file_system
from yolo_lightning.data import cache_folder
from yolo_lightning.data.cache_folder import NoRoom, sign


def test_a_full_disk_keeps_no_secret_and_so_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache_folder._secret.cache_clear()
    with file_system(tmp_path, "64k"):
        (tmp_path / "home" / "yolo_lightning").mkdir(parents=True)
        (tmp_path / "home" / "yolo_lightning" / "secret").touch()
        with suppress(OSError), (tmp_path / "ballast").open("wb") as file:
            file.write(bytes(2**17))
        with pytest.raises(NoRoom, match=r"nothing is cached, as .* \(No space left on device\); make room"):
            sign(b"anything")
    cache_folder._secret.cache_clear()
