"""`python -m onnx_tucker` and `onnx-tucker`."""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 130


def main() -> int:
    """Runs the command line and returns its exit code; an interrupt ends the program."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # what an interrupt raises while modules are imported can be swallowed there
        signal.signal(signal.SIGINT, _end)
    from onnx_tucker.cli import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = run()
        if interruptible:  # all is done, and Python itself would end with the signal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return code
    except KeyboardInterrupt:
        _end()


def _end(*_: object) -> NoReturn:
    with suppress(OSError, ValueError, AttributeError):  # stderr may be full, or closed
        sys.stderr.write("onnx-tucker: error: Interrupted; outputs are whole or absent.\n")
        sys.stderr.flush()
    os._exit(INTERRUPTED)  # an interrupt within exec() makes Python end with the signal, whatever the exit code


if __name__ == "__main__":
    sys.exit(main())
