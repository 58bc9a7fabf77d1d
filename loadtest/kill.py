"""`python -m loadtest.kill URL`: the kill command of the local stack. Exit code 0 if the role was killed."""

import sys
import urllib.request
from typing import Final

TIMEOUT_S: Final = 20.0


def main(url: str) -> int:
    """Ask the process that started the role."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=TIMEOUT_S) as answer:  # noqa: S310 - ours
            return 0 if answer.status == 204 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
