"""Nodes that share a weight, which have one fate, and nodes that the options leave out."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.settings import Settings


def sharing(job: Job) -> dict[str, list[Found]]:
    """The nodes that share a weight, or stand alone, by the label of the first."""
    groups: dict[str, list[Found]] = {}
    for found in job.found:
        groups.setdefault(found.group, []).append(found)
    return groups


def holders(job: Job, found: Found) -> list[Found]:
    """The nodes that have a node's weight, itself among them."""
    return [one for one in job.found if one.group == found.group]


def shared(job: Job, found: Found) -> bool:
    """Whether other nodes have a node's weight; what each of them adds is its own, and stays."""
    return len(holders(job, found)) > 1


def members(job: Job, found: Found) -> list[str]:
    """Their labels."""
    return [one.label for one in holders(job, found)]


def eligible(job: Job) -> list[Found]:
    """The nodes that could be factorised, and that the options do not leave out."""
    return [f for f in job.found if f.is_site and not excluded(job.settings, [f])]


def excluded(settings: Settings, group: Sequence[Found]) -> str:
    """Why a group is not to be touched by what the options name; empty where it may be."""
    for found in group:
        reason = _excluded(found, settings)
        if reason:
            return f"its weight is also that of {found.label}, {reason}" if len(group) > 1 else reason
    return ""


def _excluded(found: Found, settings: Settings) -> str:
    label = found.label
    if settings.op_types and found.place.node.op_type not in settings.op_types:
        return "left out by --op-types"
    if settings.include and not any(matches(label, pattern) for pattern in settings.include):
        return "left out by --include"
    return "left out by --exclude" if any(matches(label, pattern) for pattern in settings.exclude) else ""


def matches(label: str, pattern: str) -> bool:
    """Whether a label is one that an option names, as it is or by wildcards."""
    return label == pattern or fnmatch.fnmatchcase(label, pattern)
