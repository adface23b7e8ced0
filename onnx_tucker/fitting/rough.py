"""Models made roughly, so that allocations of ranks, and ways to make chains, can be compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from onnx_tucker.fitting import calibrate, trust
from onnx_tucker.fitting.factorise import Factorised, factorise
from onnx_tucker.fitting.trial import error, held_out
from onnx_tucker.job import Job
from onnx_tucker.types import Basis, Candidate

logger = logging.getLogger(__name__)

WORTHWHILE = 1.02
"""How much closer chains have to be that take longer to make."""
FITS: tuple[Basis, ...] = ("outputs", "influence")
"""What chains may be fitted to, of which the first model says which."""
CLEARLY = 1.05
"""With few samples, how much larger the first model's error by one of them has to be than by the other for it not to be
tried again."""


class Rough:
    """Rough models of a run, and how far they are from the original.

    What their chains are fitted to, and how far the data of nodes is trusted, the first one says for all.

    Args:
        job: the run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._first: Mapping[str, Candidate] | None = None
        self._fit: Sequence[Basis] = ()
        self._trusts: trust.Trusts | None = None
        self._errors: dict[tuple[object, Basis], float] = {}

    def error(self, planned: Mapping[str, Candidate]) -> float:
        """The error of the outputs of a model, which is remembered.

        Args:
            planned: what its nodes become, by label.
        """
        if not any(candidate.method for candidate in planned.values()):
            return 0.0
        trusts = self._begin(planned)
        key = self._key("allocation", planned)
        recalled = self._job.memory.recall(key)
        if recalled is not None:
            return float(recalled.value)
        if trust.few(self._job) and self._job.folds:  # what is fitted to looks closer than others, see `_missed`
            bases: list[Basis] = ["weights", *self._fits(planned)]
            unfitted = factorise(self._job, planned, "weights", rough=True)
            errors = held_out(self._job, unfitted, bases, trusts)
            self._note(planned, errors)
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
        if not trust.few(self._job):
            self._note(planned, errors)
        self._choose_fit(errors)
        best = min(errors, key=errors.__getitem__)
        return errors[best], ways[best]

    def closest(self, unfitted: Factorised, basis: Basis | None = None) -> Factorised:
        """A model with its chains made in the way that changes its outputs least.

        Args:
            unfitted: the model with chains from its weights alone.
            basis: the way that was found before, if it was.
        """
        planned = unfitted.planned
        bases = calibrate.bases(self._job, planned)
        if len(bases) > 1 and basis not in bases:
            key = self._key("basis", planned)
            recalled = self._job.memory.recall(key)
            if recalled is not None:
                basis = recalled.value
            else:
                basis = self._way(unfitted, bases)
                self._job.memory.remember(key, basis)
        return factorise(self._job, planned, basis) if basis in bases and basis != "weights" else unfitted

    def _way(self, unfitted: Factorised, bases: Sequence[Basis]) -> Basis:
        """The way that changes a model's outputs least."""
        best: Basis = bases[0]
        least, fits = math.inf, self._chosen(bases)
        for i, basis in enumerate(bases):
            self._job.progress("trying what chains are made from", i, len(bases))
            if basis in FITS and fits and basis not in (fits if trust.few(self._job) else fits[:1]):
                continue
            if basis.endswith("activations") and ("influence" in basis) != ("influence" in best):
                continue
            missed = self._missed(unfitted, basis)
            logger.info("chains roughly made from the %s: error %.4g of the outputs", basis, missed)
            # Nothing may tell, as for outputs of another shape each time.
            untold = best == "weights" and basis in FITS and math.isinf(least) and not trust.scarce(self._job)
            longer = best == "weights" or (basis.endswith("activations") and not best.endswith("activations"))
            if untold or missed * (WORTHWHILE if longer else 1.0) < least:
                best, least = basis, missed
        self._job.progress("trying what chains are made from", len(bases), len(bases))
        return best

    def _missed(self, unfitted: Factorised, basis: Basis) -> float:
        """The error of a model's outputs with its chains made in a way, if that was not tried before.

        Of few samples it is that on others than they are fitted to: with 51 clips the thesis network at its ranks,
        fitted to what counts at its outputs, missed .21 of those and .35 of others, where fitted to all alike it misses
        .30 of them.
        """
        key = _recipes(unfitted.planned), basis
        if key not in self._errors:
            made, trusts = unfitted, self._begin(unfitted.planned)
            others = held_out(self._job, unfitted, [basis], trusts) if trust.few(self._job) else {}
            found = others.get(basis, math.inf)
            if not math.isfinite(found):
                if basis != "weights":
                    made = factorise(self._job, unfitted.planned, basis, rough=True, trusts=trusts)
                found = error(self._job, made.model)
            self._errors[key] = found
        return self._errors[key]

    def _note(self, planned: Mapping[str, Candidate], errors: Mapping[Basis, float]) -> None:
        """Keeps what each way was found to miss, for `_missed`."""
        known = {basis: missed for basis, missed in errors.items() if math.isfinite(missed)}
        self._errors |= {(_recipes(planned), basis): missed for basis, missed in known.items()}

    def _begin(self, planned: Mapping[str, Candidate]) -> trust.Trusts:
        """How far data is trusted, as the first model says, which this one is if there was none."""
        if self._trusts is None:
            self._first, self._trusts = planned, trust.Trusts(planned)
        return self._trusts

    def _fits(self, planned: Mapping[str, Candidate]) -> list[Basis]:
        """What chains are fitted to: all that there is, until one is chosen."""
        every: list[Basis] = [basis for basis in calibrate.bases(self._job, planned) if basis in FITS]
        return self._chosen(every)[:1] or every or ["outputs"]

    def _chosen(self, bases: Sequence[Basis]) -> list[Basis]:
        """What chains are fitted to, of some ways, as the first model has said; then others that are about as close."""
        recalled = self._job.memory.recall(self._fit_key) if self._first is not None else None
        chosen = self._fit or (recalled.value if recalled is not None else ())
        return [basis for basis in chosen if basis in bases]

    def _choose_fit(self, errors: Mapping[Basis, float]) -> None:
        """Fits all further models to what the first one came closest by."""
        fitted = {basis: missed for basis, missed in errors.items() if basis in FITS}
        if not self._chosen(FITS) and fitted:
            most = CLEARLY * min(fitted.values())
            self._fit = [basis for basis in sorted(fitted, key=fitted.__getitem__) if fitted[basis] <= most]
            self._job.memory.remember(self._fit_key, self._fit)

    @property
    def _fit_key(self) -> str:
        return self._job.planned_key("fit", self._first or {})

    def _key(self, what: str, planned: Mapping[str, Candidate]) -> str:
        """A key of what follows from a model, and from the first one."""
        return self._job.planned_key(what, planned, self._fit_key)


def _recipes(planned: Mapping[str, Candidate]) -> object:
    """What tells models apart whose nodes may have other forms."""
    chains = (pair for pair in planned.items() if pair[1].method)
    return frozenset((label, candidate.method, candidate.ranks) for label, candidate in chains)
