"""A small disk of a server's own, that can be filled to the last byte and freed again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["Disk", "why_no_disks"]

_SIZE = "6g"
"""Far more than is needed; a tmpfs takes only what is written."""
_TRIES = 20


class Disk:
    """A tmpfs over a folder. Filling it takes no memory: its size is set to what is used.

    Args:
        folder: Where it is mounted; empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mount(self) -> None:
        """Mount it. Raises `OSError` where that is not allowed."""
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=755", "tmpfs", str(self._folder))

    def fill(self) -> None:
        """Leave no room for another page."""
        for tries_left in reversed(range(_TRIES)):
            found = os.statvfs(self._folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            try:
                _run("mount", "-o", f"remount,size={used}", str(self._folder))
            except OSError:
                if not tries_left:
                    raise
                continue  # more was written in between: it can't be smaller than what is used
            return

    def free(self) -> None:
        """Make room again."""
        _run("mount", "-o", f"remount,size={_SIZE}", str(self._folder))

    def unmount(self) -> None:
        """Unmount it, with all that is in it."""
        _run("umount", "--lazy", str(self._folder))


def why_no_disks() -> str:
    """Why a disk can't be mounted here; empty where it can."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-disk-"))
    try:
        disk = Disk(folder)
        disk.mount()
        disk.unmount()
    except OSError as error:
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(f"there is no program {command[0]!r}") from None
    if done.returncode:
        raise OSError(f"{' '.join(command[:1])}: {done.stderr.strip()}")
