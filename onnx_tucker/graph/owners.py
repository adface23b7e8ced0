"""Which node of a model an operator that onnxruntime ran belongs to, after it has fused and renamed them.

Every node of the main graph gets a tag for a name. What onnxruntime makes of it carries the tag, or the name of a value
that it computes. Operators that only bring values into the blocked layout and back go to the operator that needs it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import onnx

from onnx_tucker.graph.nodes import places

TAG = re.compile(r"#(\d+)#")
BLOCKED = "_nchwc"
"""What onnxruntime adds to the name of a value that it computes in the blocked layout."""
FUSED = 4
"""How many nodes back the one may be whose output a fused operator computes."""


def tagged(model: onnx.ModelProto, *, bodies: bool = False) -> bytes:
    """The model with a tag for the name of every node of the main graph, or in the order of `places` of all nodes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for i, node in enumerate([place.node for place in places(copy)] if bodies else copy.graph.node):
        node.name = f"#{i}#"
    return copy.SerializeToString(deterministic=True)


def untagged(names: Iterable[str]) -> set[int]:
    """Numbers of the nodes whose tags are among some names."""
    return {int(tag[1]) for tag in map(TAG.search, names) if tag}


def times(
    model: onnx.ModelProto,
    labels: Collection[str],
    steps: Iterable[tuple[str, str, float]],
    others: Collection[str] = (),
) -> dict[str, float]:
    """Time of the nodes with these labels, and of the chains in their places.

    Args:
        model: the model, not tagged; chains are known by their names, `{label}/...`.
        labels: names of nodes, or their first outputs where they have none.
        steps: name, operator and time of what ran, in order, for the tagged model.
        others: names of nodes that are in no chain, whatever they are called.
    """
    owners = [_owner(node, labels, others) for node in model.graph.node]
    made = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    result: dict[str, float] = {}
    waiting, last = 0.0, ""
    for name, op, ms in steps:
        if op == "ReorderInput":
            waiting += ms
            continue
        owner = last if op == "ReorderOutput" else _owner_of_step(name, model, owners, made)
        if owner:
            result[owner] = result.get(owner, 0.0) + ms + waiting
        waiting, last = 0.0, owner
    return result


def _owner(node: onnx.NodeProto, labels: Collection[str], others: Collection[str]) -> str:
    """Label of the node, or of the one whose chain it is in; empty for others."""
    if node.name in labels:
        return str(node.name)
    first = next(iter(node.output), "")
    if first in labels:
        return str(first)
    if node.name in others:
        return ""
    parts = node.name.split("/")
    prefixes = ("/".join(parts[:i]) for i in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if prefix in labels), "")


def _owner_of_step(name: str, model: onnx.ModelProto, owners: list[str], made: dict[str, int]) -> str:
    tag = TAG.search(name)
    if tag:
        return owners[int(tag[1])]
    index = made.get(name.partition(BLOCKED)[0])
    for _ in range(FUSED):
        if index is None:
            return ""
        if owners[index]:
            return owners[index]
        sources = [made[value] for value in model.graph.node[index].input if value in made]
        index = next((i for i in sources if owners[i]), next(iter(sources), None))
    return ""
