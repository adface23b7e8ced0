"""Carries out what is planned: makes the chains of all nodes and puts them into the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from joblib import Parallel, delayed

from onnx_tucker.errors import TuckerError
from onnx_tucker.factor import weight_error
from onnx_tucker.fitting import calibrate
from onnx_tucker.fitting.sequential import Fitting
from onnx_tucker.fitting.trust import Trusts
from onnx_tucker.graph import io
from onnx_tucker.graph.check import LIMIT, weight_bytes
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.splice import splice
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import members
from onnx_tucker.types import Array, Basis, Candidate, Chain, Stage


@dataclass(frozen=True, eq=False)
class Factorised:
    """A model with chains in it.

    Attributes:
        model: the model; the job's own where nothing was changed.
        planned: what the nodes with new weights are, by label.
        weights: the stored weights of each of them; nodes that share them share the list.
        errors: relative error of the weight of each, or None where that is not known.
        basis: what the chains are made from.
    """

    model: onnx.ModelProto
    planned: Mapping[str, Candidate]
    weights: Mapping[str, list[onnx.TensorProto]]
    errors: Mapping[str, float | None]
    basis: Basis = "weights"

    @property
    def changed(self) -> list[str]:
        """Labels of the nodes that are computed otherwise than they were, not only with other weights."""
        return [label for label, candidate in self.planned.items() if candidate.changes]

    @property
    def biases(self) -> dict[str, onnx.TensorProto]:
        """The bias that a node's weights come with, by label, of those that do not keep the one that they had."""
        rests = {label: self.weights[label][len(candidate.stages) :] for label, candidate in self.planned.items()}
        return {label: rest[0] for label, rest in rests.items() if rest}

    def file_bytes(self, job: Job) -> int:
        """Bytes of all files of the model as they are going to be."""
        return io.file_bytes(self.model, apart=job.apart) if self.weights else job.size

    def only(self, job: Job, labels: Iterable[str]) -> Factorised:
        """The model with the chains of some of its nodes, as they are."""
        planned = {label: self.planned[label] for label in labels}
        weights = {label: list(self.weights[label]) for label in planned}
        return _spliced(job, planned, weights, {label: self.errors[label] for label in planned}, self.basis)


def factorise(
    job: Job,
    planned: Mapping[str, Candidate],
    basis: Basis,
    *,
    rough: bool = False,
    trusts: Trusts | None = None,
    alone: bool = False,
) -> Factorised:
    """The model with nodes as they are planned, and if they are fitted to data, others refitted to that.

    Args:
        job: the run.
        planned: what nodes become, by label.
        basis: what their chains are made from; one of `calibrate.bases`.
        rough: see `fitting.sequential.Fitting`.
        trusts: see there too.
        alone: whether chains from weights are each fitted to what the original gives their node, as by statistics.
    """
    planned = {**planned, **(calibrate.refits(job, planned) if basis != "weights" else {})}
    leaders = [f for f in job.found if f.label in planned and f.group == f.label]
    names, weights, errors = Names(job.model), dict[str, list[onnx.TensorProto]](), dict[str, float]()
    made: Iterable[tuple[Found, tuple[Chain, float] | None]]
    if basis == "weights":
        alone |= job.settings.statistics is not None
        made = zip(leaders, _separate(job, leaders, planned, fitted=alone), strict=True)
    else:
        chains = Fitting(job, planned, basis, rough=rough, trusts=trusts).chains(leaders)
        made = ((found, None if chain is None else _rounded(found.site.read(), chain)) for found, chain in chains)
    for i, (leader, rounded) in enumerate(made):
        if not rough:
            job.progress("factorising", i, len(leaders))
        if rounded is None:
            del planned[leader.label]
            continue
        chain, error = rounded
        group, stored = members(job, leader), store(leader, planned[leader.label], chain, names)
        weights |= dict.fromkeys(group, stored)
        errors |= dict.fromkeys(group, error)
    if not rough:
        job.progress("factorising", len(leaders), len(leaders))
    return _spliced(job, planned, weights, errors, basis)


def _separate(
    job: Job, leaders: Sequence[Found], planned: Mapping[str, Candidate], *, fitted: bool
) -> Iterable[tuple[Chain, float]]:
    """The chains of nodes with the errors of their weights, each by itself."""
    if fitted:
        chains = calibrate.alone(job, leaders, planned)
        return (_rounded(found.site.read(), chain) for found, chain in zip(leaders, chains, strict=True))
    work = (delayed(_decomposed)(f.site.read(), f.site.stage, planned[f.label]) for f in leaders)
    # Where one job is asked for, `joblib.parallel_config` says where it is done: on a cluster, if its backend is one.
    jobs = job.settings.jobs if job.settings.jobs > 1 else None
    run = Parallel(n_jobs=jobs, prefer="threads", return_as="generator", pre_dispatch="n_jobs")
    return run(work)  # type: ignore[no-any-return]


def _decomposed(weight: Array, stage: Stage, candidate: Candidate) -> tuple[Chain, float]:
    """The chain of a candidate by the weight alone, and its relative error; takes and gives what can be sent."""
    return _rounded(weight, calibrate.decomposed(weight, stage, candidate))


def _rounded(weight: Array, chain: Chain) -> tuple[Chain, float]:
    """A chain in the weight's own type, and its relative error."""
    chain = replace(chain, factors=tuple(factor.astype(weight.dtype, copy=False) for factor in chain.factors))
    return chain, weight_error(weight, chain)


def _spliced(
    job: Job,
    planned: Mapping[str, Candidate],
    weights: Mapping[str, list[onnx.TensorProto]],
    errors: Mapping[str, float | None],
    basis: Basis,
) -> Factorised:
    if not weights:
        return Factorised(job.model, {}, {}, {})
    model = splice(job.model, planned, weights, job.found, job.context)
    if job.session is not None and weight_bytes(model, inside=True) > LIMIT:
        raise TuckerError(
            "The factors take more than 2 GB, and no model that is run may hold as much; leave nodes out with "
            "--exclude, or give no --data, and they are written without being run."
        )
    return Factorised(model, planned, weights, errors, basis)
