"""What has been measured: of this run, and of earlier ones in a folder that is safe to delete and to share.

Each value is a file with its digest, so that whoever recalls it need not ask whether it is what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

logger = logging.getLogger(__name__)


PASSING = "passing-"
"""How keys begin of what does not outlive the run."""


class Recalled(NamedTuple):
    """A remembered value, and whether an earlier run has measured it."""

    value: Any
    earlier: bool


class Memory:
    """Values by key, of what JSON can hold; lists come back as such.

    Args:
        folder: where values outlive the run; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._told = folder, False
        self._known: dict[str, Recalled] = {}

    def recall(self, key: str | None) -> Recalled | None:
        """What is known by a key, or None; nothing is by a key that is None."""
        if key is None:
            return None
        path = self._path(key)
        if key not in self._known and path is not None:
            try:
                self._known[key] = Recalled(_read(path.read_bytes()), True)
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                logger.info("%s is not used: %s", path, error)
        return self._known.get(key)

    def remember(self, key: str | None, value: Any) -> None:
        """Keeps a value, unless its key is None; a folder that cannot be written is no reason to fail."""
        if key is None:
            return
        self._known[key] = Recalled(value, False)
        path = self._path(key)
        if path is not None:
            fault = keep(path, _written(value))
            if fault and not self._told:
                self._told = True
                logger.warning("Nothing is remembered for other runs, as %s: name a folder with --cache.", fault)

    def _path(self, key: str) -> Path | None:
        return self._folder / "measured" / key if self._folder and not key.startswith(PASSING) else None


def _written(value: Any) -> bytes:
    """A value as a file has it: the digest of the JSON in the second line, and that."""
    content = json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _read(content: bytes) -> Any:
    """The value in a file; a ValueError if that is not as it was written."""
    digest, _, value = content.partition(b"\n")
    if digest.decode(errors="replace") != hashlib.sha256(value).hexdigest():
        raise ValueError("it is damaged, or was changed")
    return json.loads(value)


def keep(path: Path, content: bytes) -> str | None:
    """Writes a file that appears whole; a folder that cannot be written is no reason to fail, but the answer."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # no other run's, on whichever machine it is
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        return f"{path.parent} cannot be written ({error.strerror})"
    return None
