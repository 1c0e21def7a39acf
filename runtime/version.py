"""Version and commit of the project."""

import subprocess
from pathlib import Path

VERSION = "0.1.0"  # pyproject.toml reads it here


def commit() -> str | None:
    """The commit of the code, with "+" for uncommitted changes; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
