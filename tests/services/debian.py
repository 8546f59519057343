"""Servers from Debian's packages, unpacked into a cached folder: no root needed, nothing installed on the machine.

Debian 13's programs need a newer C library than Debian 12 or Ubuntu have. So each bundle brings its own, and each
program in it becomes a small script that starts the real one with the bundle's loader and libraries.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.command import run
from tests.services.errors import ServiceUnavailable

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RECIPE = 1  # raise it when the way of unpacking changes: bundles made by an older recipe are made anew
BASE = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libzstd1", "libsystemd0", "libcap2", "libssl3t64")


@dataclass(frozen=True)
class Bundle:
    """Some packages that make one server, and the programs in them that are to run."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]  # folders, by glob pattern: the programs in them are wrapped
    root: str = ""  # a path that its shell scripts have built in


def cache_home() -> Path:
    """Where bundles are kept. Root's is not in its home, which the unprivileged PostgreSQL could not read."""
    if configured := os.environ.get("XDG_CACHE_HOME"):
        base = Path(configured)
    else:
        base = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return base / "pipeline-runner"


def unpacked(bundle: Bundle) -> Path:
    """The bundle's folder; downloads and unpacks it the first time."""
    prefix = cache_home() / bundle.name
    stamp = prefix / ".complete"
    made_of = f"{RECIPE} {SUITE} {prefix} {bundle}"
    try:
        prefix.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(prefix.with_suffix(".lock")):
            if not stamp.exists() or stamp.read_text() != made_of:
                print(f"{bundle.name}: unpacking Debian's packages into {prefix}, once", file=sys.stderr)
                _unpack(bundle, prefix)
                stamp.write_text(made_of)
    except OSError as error:
        raise ServiceUnavailable(f"can't unpack {bundle.name} into {prefix}: {error}") from error
    return prefix


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpack(bundle: Bundle, prefix: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise ServiceUnavailable(f"{bundle.name} comes from Debian's packages, and there is no {tool} here")
    shutil.rmtree(prefix, ignore_errors=True)
    archives = prefix / "archives"
    archives.mkdir(parents=True)
    apt = _private_apt(prefix / "apt")
    run(["apt-get", "-qq", "update"], env=apt)
    run(["apt-get", "-qq", "download", *BASE, *bundle.packages], env=apt, folder=archives)
    for archive in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "-x", archive, prefix])
    for pattern in bundle.programs:
        for folder in prefix.glob(pattern):
            _relocate_programs(folder, prefix, bundle.root)
    shutil.rmtree(prefix / "apt")
    shutil.rmtree(archives)
    prefix.chmod(0o755)


def _private_apt(folder: Path) -> dict[str, str]:
    """An environment in which apt-get knows Debian's `SUITE` only, and keeps all it writes in `folder`."""
    for name in ("etc/sources.list.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()
    if not KEYRING.exists():
        raise ServiceUnavailable(f"no {KEYRING}: type `sudo apt-get install debian-archive-keyring`")
    (folder / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    config = folder / "apt.conf"
    config.write_text(
        f'Dir::Etc "{folder}/etc";\n'
        'Dir::Etc::parts "/etc/apt/apt.conf.d";\n'
        f'Dir::State "{folder}/state";\n'
        f'Dir::State::status "{folder}/state/status";\n'
        f'Dir::Cache "{folder}/cache";\n'
        'Acquire::Languages "none";\n'
        'APT::Sandbox::User "root";\n'
    )
    return {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}


def _mirror() -> str:
    """The Debian mirror that this machine's own apt uses."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return mirror
    listing = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"])
    for line in listing.splitlines():
        if line.startswith("Debian main "):
            return line.split(maxsplit=2)[2]
    raise ServiceUnavailable(
        "apt knows no Debian mirror: on Debian type `sudo apt-get update`; elsewhere use Docker, "
        "or set DEBIAN_MIRROR to a mirror's URL"
    )


def _relocate_programs(folder: Path, prefix: Path, root: str) -> None:
    """Make the programs in `folder` run from where they are."""
    loader = next(prefix.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    for program in sorted(folder.iterdir()):
        if program.is_symlink() or not program.is_file() or not os.access(program, os.X_OK):
            continue
        content = program.read_bytes()
        if content.startswith(b"\x7fELF"):
            real = program.rename(program.with_name(program.name + ".real"))
            program.write_text(f'#!/bin/sh\nexec {loader} --library-path {loader.parent} --argv0 "$0" {real} "$@"\n')
            program.chmod(0o755)
        elif root and content.startswith(b"#!"):
            program.write_bytes(content.replace(root.encode(), f"{prefix}{root}".encode()))
