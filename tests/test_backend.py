"""ONNX's own backend tests, through the tool: what onnxruntime computes stays right, with all layers at full rank."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from onnx_tucker import compress
from onnx_tucker.factor import METHODS
from onnx_tucker.graph.check import invalid
from onnx_tucker.graph.ops import OPS
from onnx_tucker.runtime.session import FAILURES
from onnx_tucker.types import Plan
from tests.helpers import look, session

FACTORISED = {"node": 20, "simple": 0, "pytorch-converted": 20, "pytorch-operator": 1}
"""Kinds of cases, and how many nodes of them are factorised at least."""


class Case(NamedTuple):
    """A model, its inputs by name, and what it has to give."""

    name: str
    model: ModelProto
    feed: dict[str, Any]
    expected: list[Any]
    rtol: float
    atol: float


def cases(kind: str) -> Iterator[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        from onnx.backend.test.loader import load_model_tests

        loaded = load_model_tests(kind=kind)
    for case in loaded:
        if case.model is not None:
            inputs, expected = case.data_sets[0]
            model = case.model
        elif case.model_dir is not None:
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            inputs = [
                read(p, v) for p, v in zip(sorted(folder.glob("*_0/input_*.pb")), model.graph.input, strict=False)
            ]
            expected = [
                read(p, v) for p, v in zip(sorted(folder.glob("*_0/output_*.pb")), model.graph.output, strict=True)
            ]
        names = [value.name for value in model.graph.input]
        yield Case(case.name, model, dict(zip(names, inputs, strict=False)), list(expected), case.rtol, case.atol)


def read(path: Path, value: onnx.ValueInfoProto) -> Any:
    if value.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def with_weights(case: Case) -> Case:
    """The case with the inputs that linear nodes take for weights as initializers."""
    model = ModelProto.FromString(case.model.SerializeToString())
    linear = [node for node in model.graph.node if node.op_type in OPS]
    wanted = {name for node in linear for name in node.input[1:]} & case.feed.keys()
    wanted -= {node.input[0] for node in linear}
    for name in sorted(wanted):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(case.feed[name]), name))
        model.graph.input.remove(next(v for v in model.graph.input if v.name == name))
    return case._replace(model=model, feed={k: v for k, v in case.feed.items() if k not in wanted})


def passes(case: Case, model: ModelProto) -> bool:
    """Whether onnxruntime computes what the case expects."""
    try:
        outputs = session(model).run(None, case.feed)
    except (*FAILURES, TypeError, AttributeError):
        return False
    return len(outputs) == len(case.expected) and all(
        close(a, b, case) for a, b in zip(outputs, case.expected, strict=True)
    )


def close(a: Any, b: Any, case: Case) -> bool:
    if isinstance(b, list):
        return len(a) == len(b) and all(close(x, y, case) for x, y in zip(a, b, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype.kind not in "fiub":
        return a.shape == b.shape and bool(np.all(a == b))
    return bool(np.allclose(a, b, case.rtol, case.atol, equal_nan=True))


def full_rank(plan: Plan, model: ModelProto, turn: int) -> Plan:
    """The plan with every site factorised at full rank, by a method that goes round with `turn`."""
    found = look(model)[1]
    stages = {f.label: f.site.stage for f in found if f.is_site}
    groups = {f.label: f.group for f in found}
    choices = []
    for choice in plan.choices:
        if choice.name in stages:
            stage = stages[choice.name]
            methods = [m for m in METHODS.values() if m.applies(stage, by_name=True)]
            method = methods[(turn + len(groups[choice.name])) % len(methods)]
            ranks = method.dimensions(stage)
            choice = replace(choice, status="factorized", reason="", method=method.name, form="direct", ranks=ranks)
        choices.append(choice)
    return Plan(tuple(choices))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTORISED)
def test_onnx_backend_cases_pass_through_the_tool(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong = []
    for turn, case in enumerate(map(with_weights, cases(kind))):
        if not passes(case, case.model):
            counts["not run by onnxruntime as expected"] += 1
            continue
        counts["passed untouched"] += 1
        before = case.model.SerializeToString()
        result = compress(case.model, ranks="full", benchmark=False)
        if result.plan.choices:
            result = compress(case.model, plan=full_rank(result.plan, case.model, turn), benchmark=False)
        assert case.model.SerializeToString() == before
        if not passes(case, result.model) or (invalid(result.model, Path()) and not invalid(case.model, Path())):
            wrong.append(case.name)
        counts["passed through the tool"] += case.name not in wrong
        counts["of these with factorised nodes"] += any(n.method for n in result.report.nodes)
        counts["nodes factorised"] += sum(n.method is not None for n in result.report.nodes)
        reasons.update(n.reason for n in result.report.nodes if n.method is None)
    with capsys.disabled():
        print(f"\nONNX backend cases, {kind}: {dict(counts)}; nodes skipped: {dict(reasons)}")
    assert not wrong
    assert counts["passed untouched"]
    assert counts["nodes factorised"] >= FACTORISED[kind]
