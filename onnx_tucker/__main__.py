"""`python -m onnx_tucker` and `onnx-tucker`."""

import os
import sys

INTERRUPTED = 130


def main() -> int:
    """Runs the command line and returns its exit code; an interrupt ends the program, also while it is imported."""
    try:
        from onnx_tucker.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("onnx-tucker: error: Interrupted; nothing was written.\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # an interrupt within exec() makes Python end with the signal, whatever the exit code


if __name__ == "__main__":
    sys.exit(main())
