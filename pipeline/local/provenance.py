"""What a report of a long run names beside its figures: the commit that ran and the machine."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

CHANGES: Final = "+changes"
SHOWN_DIGITS: Final = 12
REPOSITORY: Final = Path(__file__).resolve().parents[2]


def machine() -> dict[str, str | int]:
    """What it ran on."""
    system = f"{platform.system()} {platform.machine()}"
    return {"cores": os.cpu_count() or 0, "python": platform.python_version(), "system": system}


def commit(*rooms: str) -> str:
    """The commit that ran, marked where one of the folders differs from it; `unknown` without a repository or git."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)  # noqa: S603, S607
        except OSError:
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", *rooms)
    return (git("rev-parse", "HEAD") or "unknown") + (CHANGES if changed else "")


def shown(commit: str) -> str:
    """A commit in short; that the tree had changes beside it stays said."""
    return commit.removesuffix(CHANGES)[:SHOWN_DIGITS] + (CHANGES if commit.endswith(CHANGES) else "")
