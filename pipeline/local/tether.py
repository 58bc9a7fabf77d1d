"""Ties a program to the life of the process that starts it: `python tether.py PARENT_PID PROGRAM [ARGUMENT …]`.

Asks the kernel to kill this process when its parent ends, however it ends, then becomes PROGRAM (same process id; the
wish survives exec). So a `kill -9` of a test run or of the demo leaves no Java behind. Linux only; elsewhere PROGRAM
just runs. Imports only what is needed: it runs before every child.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: becomes the program, or ends with status 1 if the parent is gone already."""
    parent_pid, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # it ended between our birth and the line above
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 (the program is named by `Child`, a shell would stand between us and it)


if __name__ == "__main__":
    main(sys.argv[1:])
