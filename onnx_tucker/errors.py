"""Everything that onnx-tucker raises on purpose.

TuckerError                      exit code 1: one clear sentence, nothing written
├── UsageError                   exit code 2: the options cannot be understood
├── ModelError                   the input model cannot be read, or is not a valid model
├── DataError                    data, statistics or the function of `--eval` do not fit the model
├── PlanError                    a plan or a ranks file does not fit the model
├── OutputError                  an output file cannot be written
└── PromiseError                 exit code 3: a promise does not hold, so nothing is written

A node that cannot be factorised is no error but a value: `types.Skip`, with its reason. `UnsupportedError` never leaves
the tool: what looks at a node catches it, and names the node or does without.
"""

from __future__ import annotations


class TuckerError(Exception):
    """The base of all errors of onnx-tucker; its text is one sentence for the user."""

    exit_code = 1


class UsageError(TuckerError):
    """An option, or a combination of options, that cannot be understood."""

    exit_code = 2


class ModelError(TuckerError):
    """The input is not a model that can be read, or not a valid one."""


class DataError(TuckerError):
    """Data, labels or statistics that cannot be read or do not fit the model, or a score that cannot be taken of it."""


class PlanError(TuckerError):
    """A plan or ranks file that is malformed or belongs to another model."""


class OutputError(TuckerError):
    """An output file cannot be written."""


class PromiseError(TuckerError):
    """A promise made to the user, such as `--max-error`, does not hold."""

    exit_code = 3


class UnsupportedError(Exception):
    """An operator, or a kind of it, that training or derivatives do not know; its text names the kind."""
