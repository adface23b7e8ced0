"""Plans that were made before: what their choices stand for, and what is taken back of them."""

from __future__ import annotations

from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS
from onnx_tucker.forms import FORMS
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import sharing
from onnx_tucker.planning.pricing import Decision, price
from onnx_tucker.planning.tuning import Tuner
from onnx_tucker.planning.ways import alike, forms_of
from onnx_tucker.rank import search
from onnx_tucker.types import Candidate, Choice, Plan


def replay(job: Job, plan: Plan) -> Decision:
    """Takes a plan as it is, and times what it changes.

    Raises:
        PlanError: the plan was made for a model with other nodes.
    """
    known = {f.label: f for f in job.found}
    planned = {c.name: c for c in plan.choices}
    for name in sorted(known.keys() ^ planned.keys()):
        where = "the plan has" if name in planned else "the model has"
        raise PlanError(f"The plan is for another model: only {where} a node {name!r}.")
    for group in sharing(job).values():
        recipes = {(c.method, c.ranks, c.form) for c in (planned[f.label] for f in group)}
        framed = any(form in FORMS and FORMS[form].on_frames for _, _, form in recipes if form)
        if len(recipes) > 1 or (framed and not alike(group)):
            names = " and ".join(repr(f.label) for f in group[:2])
            raise PlanError(f"The plan treats {names} differently, but they share a weight.")
    candidates = {name: planned_candidate(job.context, known[name], c) for name, c in planned.items() if c.form}
    return Decision(Plan(tuple(planned[name] for name in known), plan.basis), price(job, Tuner(job), candidates))


def planned_candidate(context: Context, found: Found, choice: Choice) -> Candidate:
    """The candidate that a choice stands for.

    Raises:
        PlanError: the node is not the one that the plan was made for.
    """
    if not found.is_layer or (found.skipped and choice.method):
        raise PlanError(f"The plan changes {choice.name!r}, but it cannot be: {found.skipped}.")
    site = found.site
    if choice.shape != site.stage.shape or choice.op != site.op:
        raise PlanError(
            f"The plan is for another model: its {choice.name!r} is a {choice.op} of shape {choice.shape}, "
            f"here it is a {site.op} of shape {site.stage.shape}."
        )
    if (choice.method and choice.method not in METHODS) or choice.form not in FORMS:
        raise PlanError(f"The plan asks for {choice.method} ({choice.form}) at {choice.name!r}, which is unknown.")
    if choice.method and choice.ranks is not None:
        method = METHODS[choice.method]
        if not method.applies(site.stage, by_name=True):
            raise PlanError(f"The plan asks for {choice.method} at {choice.name!r}, which does not apply to its shape.")
        search.check_ranks(site, method, choice.ranks)
    candidate = found.own(Candidate(choice.method, choice.ranks, (), form=choice.form))
    if FORMS[choice.form] not in forms_of(context, found, candidate.stages):
        raise PlanError(f"The plan asks for {choice.form} at {choice.name!r}, which does not fit it.")
    return candidate
