"""What is known of the inputs of all nodes, and the file that keeps it, so that later runs need no data.

The file is an `.npz`: the model's fingerprint, the labels of the nodes, and for each the arrays of its `Moments`, or of
its `Samples` where there are few rows for the values that one sees.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.errors import DataError
from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.samples import Samples, joined
from onnx_tucker.fitting.rows import Flow, known_rows
from onnx_tucker.fitting.trust import lighter
from onnx_tucker.fitting.walk import Walk
from onnx_tucker.graph.find import Found
from onnx_tucker.job import ROUGH_ROWS, Job
from onnx_tucker.planning.groups import sharing
from onnx_tucker.types import Array, Stage

ROWS = 40_000
"""Output positions of a node that are read at most."""
MODEL, NODES = "model", "nodes"
"""The entries of the file that are no node's."""


class Known(NamedTuple):
    """What is known of the rows of a node.

    Attributes:
        whole: of all of them.
        halves: of those of each half of the samples; none from a file, which does not tell them apart.
    """

    whole: Statistics
    halves: Sequence[Statistics] = ()


class Original:
    """The model itself, as where rows come from."""

    def __init__(self, job: Job) -> None:
        assert job.inputs is not None
        self._walk = Walk(job, job.inputs.fit.feeds)

    def target(self, found: Found) -> str:
        """See `rows.Flows`."""
        return found.output

    def rows(self, found: Found, *, known: bool) -> Iterator[Flow]:
        """See `rows.Flows`."""
        x, y = found.input, self.target(found)
        return (Flow(values[x], values.get(y)) for values in self._walk.read([x] if known else [x, y]))


def of_model(job: Job, nodes: Sequence[Found], *, rough: bool = False) -> Iterator[Known | None]:
    """What the original's nodes see and give; None where that is not known.

    Args:
        job: the run, with data or with the file of an earlier one.
        nodes: some of the nodes, in the order of the graph.
        rough: whether fewer samples and positions are enough.

    Raises:
        DataError: the file cannot be read, or it is of another model.
    """
    if job.settings.statistics is not None:
        with _Stored(job) as stored:
            yield from (None if kept is None else Known(kept) for kept in map(stored.of, nodes))
        return
    source = Original(job)
    for found in nodes:
        read, most = (lighter(job, found), ROUGH_ROWS) if rough else (job, ROWS)
        halves = known_rows(read, found, source, most)
        known = None if isinstance(halves, str) else Known(joined(*halves), halves)
        yield known if known is not None and known.whole.rows else None


def check(job: Job) -> None:
    """Makes sure that the file of an earlier run, if one is given, can be used, and that there is something to keep.

    Raises:
        DataError: see `of_model`; or the data says nothing.
    """
    if job.settings.statistics_out is not None and job.inputs is not None and job.inputs.blank:
        raise DataError("Each sample of the data is a single value throughout, which says nothing that could be kept.")
    if job.settings.statistics is not None:
        _Stored(job).close()


def save(job: Job, file: IO[bytes]) -> None:
    """Writes what the original's nodes see and give, one after another.

    Args:
        job: the run, with data.
        file: where to.
    """
    nodes = [group[0] for group in sharing(job).values() if group[0].is_site]
    with zipfile.ZipFile(file, "w") as archive:
        _write(archive, MODEL, np.array(job.fingerprint))
        kept: list[str] = []
        for i, (found, known) in enumerate(zip(nodes, of_model(job, nodes), strict=True)):
            job.progress("collecting statistics", i, len(nodes))
            if known is not None:
                for name, array in known.whole.arrays().items():
                    _write(archive, f"{len(kept)}/{name}", array)
                kept.append(found.label)
        _write(archive, NODES, np.array(kept, dtype=np.str_))
        job.progress("collecting statistics", len(nodes), len(nodes))


def _write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


class _Stored:
    """The file of an earlier run; arrays are read when they are asked for."""

    def __init__(self, job: Job) -> None:
        self._path = Path(job.settings.statistics or "")
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError as error:
            raise DataError(f"There is no file of statistics {self._path}.") from error
        except OSError as error:
            raise self._unreadable(error.strerror) from error
        try:
            self._open(job)
        except BaseException:
            self.close()
            raise

    def _open(self, job: Job) -> None:
        try:
            content = np.load(self._file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self._unreadable("it is none that --statistics-out has written") from error
        if isinstance(content, np.ndarray):
            raise self._unreadable("it is a single array")
        self._content = content
        if str(self._array(MODEL)) != job.fingerprint:
            raise DataError(f"The statistics in {self._path} are of another model; collect them anew with --data.")
        self._numbers = {str(label): i for i, label in enumerate(self._array(NODES).ravel())}

    def __enter__(self) -> _Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def of(self, found: Found) -> Statistics | None:
        """What is known of a node."""
        number = self._numbers.get(found.label)
        if number is None:
            return None
        names = [name for name in self._content.files if name.startswith(f"{number}/")]
        try:
            return _restored(found.site.stage, {name.partition("/")[2]: self._array(name) for name in names})
        except (KeyError, ValueError) as error:
            raise self._unreadable(error) from error

    def _array(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self._content[name])
        except KeyError as error:
            raise self._unreadable(f"it has no array {name!r}") from error
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, why: object) -> DataError:
        return DataError(f"The statistics {self._path} cannot be read, collect them anew: {' '.join(str(why).split())}")


def _restored(stage: Stage, arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """What is known of a site's rows, from its arrays.

    Raises:
        KeyError: some are missing.
        ValueError: they are none of the site: of other shapes, or not finite.
    """
    if "patches" in arrays:
        few, rows = Samples.none(stage), arrays["patches"].shape[1:2]
        patches, outputs = ((groups, *rows, width) for groups, _, width in (few.patches.shape, few.outputs.shape))
        return few + Samples(_checked(arrays["patches"], patches), _checked(arrays["outputs"], outputs))
    none, count = Moments.none(stage), arrays["rows"]
    if count.shape or count.dtype.kind not in "iu":
        raise ValueError("the number of rows is none")
    names = ("patch", "output", "squared", "crossed")
    return none + Moments(int(count), *(_checked(arrays[name], getattr(none, name).shape) for name in names))


def _checked(array: NDArray[Any], shape: tuple[int, ...]) -> Array:
    """An array that was kept, if it is of a shape, and of finite numbers."""
    if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("an array is of another shape or type, or not finite")
    return array
