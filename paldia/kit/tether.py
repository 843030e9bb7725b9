"""Runs a program that is told to end (SIGTERM) when its parent dies, however it dies.

Used as `python -I -S tether.py PARENT_PID PROGRAM ARGUMENT...`. Linux keeps the request
across exec; asking for it between fork and exec instead is unsafe in a process with
threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before it was asked for.
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - an argument list, and no shell
