"""Run a command to its end; a failure says what the command said last."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.errors import ServiceUnavailable


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    user: int | None = None,
    seconds: float = 600,
) -> str:
    """What the command printed. If it fails or takes too long, `ServiceUnavailable` with its last words."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env=os.environ if env is None else env,
            cwd=folder,
            user=user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise ServiceUnavailable(f"`{' '.join(words[:3])}` failed: {last_words(error.output)}") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailable(f"`{' '.join(words[:3])}` took more than {seconds:.0f} s") from error
    except OSError as error:
        raise ServiceUnavailable(f"can't run {words[0]}: {error.strerror}") from error
    return done.stdout


def last_words(output: str) -> str:
    """The end of a command's output, on one line."""
    return " ".join(output.split()[-60:])
