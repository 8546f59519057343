"""Bull's side, made ready: its packages, installed by npm from the lockfile into a folder that git ignores."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

__all__ = ["MissingNode", "install", "versions"]

_SOURCES = Path(__file__).parent / "bull"
_FOLDER = Path(__file__).parents[1] / "build" / "benchmarks"
_LONGEST = 300.0


class MissingNode(Exception):
    """Node.js or npm is not there, or npm could not install; the text says what to do."""


def install() -> Path:
    """The folder of Bull's program, its packages installed; once, and again when the lockfile changes.

    Raises:
        MissingNode: It can't be had.
    """
    lock = (_SOURCES / "package-lock.json").read_bytes()
    folder = _FOLDER / f"bull-{hashlib.sha256(lock).hexdigest()[:12]}"
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        raise MissingNode(
            f"there is no {' and no '.join(missing)}, which the comparison with Bull needs: install Node.js 18 or"
            " later, or name other benchmarks, as in 'python -m benchmarks noop audit'"
        )
    shutil.copytree(_SOURCES, folder, dirs_exist_ok=True)
    if not (folder / "node_modules" / ".package-lock.json").exists():
        _install(folder)
    return folder


def versions() -> dict[str, str]:
    """Of Node.js, and of the packages that the comparison is with."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    packages = json.loads((_SOURCES / "package.json").read_text())["dependencies"]
    return {"Node.js": ", ".join([node, *(f"{name} {version}" for name, version in packages.items())])}


def _install(folder: Path) -> None:
    # No package's scripts are run: none of these needs one.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        raise MissingNode(f"'{' '.join(command)}' took longer than {_LONGEST:g} s: is the registry there?") from None
    if done.returncode:
        raise MissingNode(f"'{' '.join(command)}' in {folder} failed:\n{(done.stderr or done.stdout)[-2000:]}")
