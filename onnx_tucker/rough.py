"""Models of a search made roughly, all in the same way, so that they can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx_tucker import calibrate, trust
from onnx_tucker.factorise import Factorised, factorise
from onnx_tucker.job import Job
from onnx_tucker.trial import error, held_out
from onnx_tucker.types import Basis, Candidate

FITS = ("outputs", "influence")
"""What chains may be fitted to, of which the first model says which."""


class Rough:
    """Rough models of a run, and how far they are from the original.

    What their chains are fitted to, and how far the data of nodes is trusted, the first one says for all.

    Args:
        job: the run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._first: Mapping[str, Candidate] | None = None
        self._fit: Basis | None = None
        self._trusts: trust.Trusts | None = None

    def error(self, planned: Mapping[str, Candidate]) -> float:
        """The error of the outputs of a model, which is remembered.

        Args:
            planned: what its nodes become, by label.
        """
        if not any(candidate.method for candidate in planned.values()):
            return 0.0
        if self._trusts is None:
            self._first, self._trusts = planned, trust.Trusts(planned)
        key = self._job.planned_key("allocation", planned)
        recalled = self._job.memory.recall(key)
        if recalled is not None and isinstance(recalled.value, float):
            return recalled.value
        if trust.scarce(self._job):  # what is fitted to few samples looks closer on those than on others
            bases: list[Basis] = ["weights", *self._fits(planned)]
            unfitted = factorise(self._job, planned, "weights", rough=True)
            errors = held_out(self._job, unfitted, bases, self._trusts)
            self._choose_fit(errors)
            found = min(errors.values(), default=math.inf)
        else:
            found = self.made(planned)[0]
        if math.isfinite(found):
            self._job.memory.remember(key, found)
        return found

    def made(self, planned: Mapping[str, Candidate]) -> tuple[float, Factorised]:
        """The error of the outputs of a model, and the model; without data that is not known.

        Args:
            planned: what its nodes become, by label.
        """
        if not trust.usable(self._job):
            return math.nan, factorise(self._job, planned, "weights", rough=True)
        bases = self._fits(planned)
        if trust.few(self._job):
            bases.append("weights")
        ways = {basis: factorise(self._job, planned, basis, rough=True, trusts=self._trusts) for basis in bases}
        errors = {basis: error(self._job, way.model) for basis, way in ways.items()}
        self._choose_fit(errors)
        best = min(errors, key=errors.__getitem__)
        return errors[best], ways[best]

    def _fits(self, planned: Mapping[str, Candidate]) -> list[Basis]:
        """What chains are fitted to: all that there is, until one is chosen."""
        every: list[Basis] = [basis for basis in calibrate.bases(self._job, planned) if basis in FITS]
        recalled = self._job.memory.recall(self._fit_key)
        chosen = self._fit or (recalled.value if recalled is not None else None)
        return [chosen] if chosen in every else every or ["outputs"]

    def _choose_fit(self, errors: Mapping[Basis, float]) -> None:
        """Fits all further models to what the first one came closest by."""
        fitted = {basis: missed for basis, missed in errors.items() if basis in FITS}
        if self._fit is None and fitted:
            chosen = min(fitted, key=fitted.__getitem__)
            self._job.memory.remember(self._fit_key, chosen)
            self._fit = chosen

    @property
    def _fit_key(self) -> str | None:
        return self._job.planned_key("fit", self._first or {})
