"""Where things are: the project, the record of what runs, and the servers' data."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = f"pipeline-tests-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"  # one for each checkout
RECORD = ROOT / ".services"
DATA = Path(tempfile.gettempdir()) / f"{NAME}-{os.geteuid()}"  # not in ROOT, where PostgreSQL's user may not go


def new_data_folder(name: str) -> Path:
    """An empty folder for a service's data, which other users may enter. Its name tells which process made it."""
    DATA.mkdir(mode=0o755, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=DATA))
    folder.chmod(0o755)
    return folder


def remove_forgotten_data(known: Container[str]) -> None:
    """Delete the data folders that are not known and whose maker is gone."""
    for folder in DATA.glob("*-*-*"):
        maker = folder.name.split("-")[1]
        if str(folder) not in known and not Path("/proc", maker).exists():
            shutil.rmtree(folder, ignore_errors=True)
