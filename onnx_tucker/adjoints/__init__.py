"""How derivatives pass backwards through the nodes of a graph, operator by operator (reverse accumulation).

Few operators are written a second time in numpy that onnxruntime has: what takes each value by itself is run again on
values a bit up and down; what only moves values about is run on their numbers, which tells where each came from; and
convolutions pass derivatives on by transposed ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx_tucker.adjoints import elementwise, moves, products, recurrent, sums, windows
from onnx_tucker.adjoints.call import Call, Rule, Run, Value
from onnx_tucker.graph.behind import SHAPERS
from onnx_tucker.graph.elementwise import OPERATORS
from onnx_tucker.graph.nodes import SOFTMAXES

__all__ = ["RULES", "Call", "Rule", "Run", "Value"]

_MOVES = (
    *SHAPERS,
    *"DepthToSpace Dropout Expand Gather GatherElements GatherND Pad Slice SpaceToDepth Split Tile".split(),
    *"Concat Transpose".split(),
)
_REDUCTIONS = (
    *"GlobalAveragePool GlobalMaxPool ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin".split(),
    *"ReduceSum ReduceSumSquare".split(),
)
_BY_ITSELF = (*OPERATORS, *"Cos Mean PRelu Sin".split())

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_BY_ITSELF, elementwise.by_itself),  # but for those that follow, which need no steps
    **dict.fromkeys(_MOVES, moves.moved),
    **dict.fromkeys(("Resize", "Upsample"), moves.resized),
    **dict.fromkeys(("Add", "Sub", "Sum"), elementwise.added),
    **dict.fromkeys(_REDUCTIONS, sums.summed),
    **dict.fromkeys(SOFTMAXES, sums.softmax),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "LayerNormalization"), sums.standardised),
    **dict.fromkeys(("GRU", "LSTM"), recurrent.recurrent),
    "AveragePool": windows.averaged,
    "BatchNormalization": elementwise.normalised,
    "Conv": windows.convolved,
    "ConvTranspose": windows.transposed,
    "Einsum": products.einstein,
    "Gemm": products.gemm,
    "LRN": sums.responded,
    "LpNormalization": sums.scaled,
    "MatMul": products.product,
    **dict.fromkeys(("Exp", "Log", "Reciprocal", "Sqrt"), elementwise.exponential),
    "Div": elementwise.divided,
    "MaxPool": windows.largest,
    "Mul": elementwise.multiplied,
    "Pow": elementwise.raised,
    **dict.fromkeys(("Elu", "LeakyRelu", "Relu"), elementwise.rectified),
    "Where": elementwise.chosen,
}
"""By operator."""
