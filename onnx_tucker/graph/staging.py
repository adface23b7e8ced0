"""Output files, which appear whole or not at all.

Everything is written to temporary names in the target folders first, and only when all of it is on disk do the files
take their final names, the model last. A data file never takes the place of one that a model already there needs, so at
every moment the old model is whole or the new one is.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from onnx_tucker.errors import OutputError
from onnx_tucker.graph.io import data_of

Content = bytes | Callable[[BinaryIO], None]
"""What a file is to hold, or what writes it."""


def check_target(path: Path, overwrite: bool) -> None:
    """Finds out before any work whether a file can be written.

    Raises:
        OutputError: it exists and may not be replaced, is no regular file, or its folder is missing or read-only.
    """
    try:
        path.resolve()
        path.stat()
    except FileNotFoundError:
        pass
    except RuntimeError as error:  # as Python before 3.13 says it
        raise OutputError(f"{path} cannot be written: it is a link that leads to itself.") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it.")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} exists; give --overwrite to replace it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is a device or pipe, which cannot be replaced by a file.")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"There is no folder {folder} to write {path.name} to.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written: the folder {folder} is read-only.")


def free_data_path(path: Path, taken: Collection[Path]) -> Path:
    """The first name for the data file of a model at `path` that no file has: any may hold weights of some model.

    Args:
        path: the model's file.
        taken: files that do not exist yet.
    """
    number, full = 0, {one.resolve() for one in taken}
    while True:
        name = path.with_name(f"{path.name}.{number}.data" if number else f"{path.name}.data")
        if name.resolve() not in full and not os.path.lexists(name):
            return name
        number += 1


def same(path: Path, other: Path) -> bool:
    """Whether both name one file; no where either is missing or cannot be looked at."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def superseded(path: Path, read: Collection[Path]) -> list[Path]:
    """Data files of the model at `path` that this tool has named, but for those in `read`."""
    ours = re.compile(rf"{re.escape(path.name)}(\.\d+)?\.data")
    return sorted(p for p in data_of(path) if ours.fullmatch(p.name) and not any(same(p, r) for r in read))


class Staging:
    """Files on their way: written under temporary names, until `commit` gives all of them their own.

    A link is followed, and a file that is replaced hands on its permissions. Leaving the context without a commit
    removes what was written.

    Args:
        overwrite: whether files that exist may be replaced; not by those that appear meanwhile.
    """

    def __init__(self, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._written: dict[Path, Path] = {}
        self._new: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary in self._written.values():
            with suppress(OSError):
                temporary.unlink()

    def write(self, path: Path, content: Content) -> int:
        """Writes a file that is to be `path`; returns its size.

        Raises:
            OutputError: it cannot be written.
        """
        target = path.resolve()
        if not os.path.lexists(path):
            self._new.append(path)
        elif not self._overwrite:
            raise OutputError(f"{path} has appeared while the run was on its way; nothing was changed.")
        try:
            mode = target.stat().st_mode if target.exists() else 0o666 & ~_umask()  # mkstemp's files are private
            handle, name = tempfile.mkstemp(prefix=".onnx-tucker.", suffix=".tmp", dir=target.parent)
            self._written[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            self._written[path].chmod(mode)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; nothing was changed.") from error
        return size

    def commit(self, last: Path | None = None, read: Collection[Path] = ()) -> None:
        """Gives all files their names.

        Args:
            last: the model, which appears when everything that it needs is there. Data files of the model that it
                replaces are removed.
            read: files that are left alone.

        Raises:
            OutputError: one cannot be put in its place; the text says which have been.
        """
        obsolete = superseded(last, [*read, *self._written]) if last in self._written else []
        for path in self._new:  # the run may have taken long
            if os.path.lexists(path):
                raise OutputError(f"{path} has appeared while the run was on its way; nothing was changed.")
        replaced: list[str] = []
        with _uninterrupted():
            for path in sorted(self._written, key=lambda path: path == last):
                try:
                    self._written[path].replace(path.resolve())
                except OSError as error:
                    so_far = f"only {', '.join(replaced)} was written" if replaced else "nothing was changed"
                    raise OutputError(f"{path} cannot be written: {error.strerror}; {so_far}.") from error
                replaced.append(path.name)
            for path in obsolete:
                with suppress(OSError):
                    path.unlink()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Interrupts come too late here, where some files would be new and others not."""
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield  # the handler is not Python's, or not this thread's
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
