"""Parameters, multiply-accumulates (MACs) and floating-point operations (FLOPs) of linear layers.

FLOPs are counted by one of four conventions, which differ by a few per cent up to factors of two on the same layer:

- `exact`: every multiplication and addition that the layer specifies, bias included.
- `output`: positions x Cout x (2 Cin K - 1), without bias.
- `molchanov`: 2 H W (Cin K + 1) Cout over the *input* size H W, and (2 I - 1) O for a matrix
  (Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017, appendix A.1).
- `thesis`: positions x (2 (Cin K + 1) Cout + 1), and 2 I O for a matrix.

K is the number of kernel elements. Padded zeros count: the arithmetic is specified on them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from onnx_tucker.types import Site, Stage


@dataclass(frozen=True)
class Layer:
    """A linear layer as the counting conventions see it.

    Attributes:
        positions: how often the kernel is applied, over the whole batch: output positions of a convolution, input
            positions of a transposed one, rows of a matrix product.
        in_positions: input positions over the whole batch.
        outputs: elements of the output.
        fan_in: channels that one output sees.
        fan_out: channels that one application of the kernel writes.
        volume: kernel elements; 0 for a matrix product.
        bias: whether something is added to every output.
        scalings: further multiplications per output.
    """

    positions: int
    in_positions: int
    outputs: int
    fan_in: int
    fan_out: int
    volume: int
    bias: bool
    scalings: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the products alone."""
        return self.positions * self.fan_in * self.fan_out * max(self.volume, 1)


def _exact(layer: Layer) -> int:
    return _output(layer) + (layer.bias + layer.scalings) * layer.outputs


def _output(layer: Layer) -> int:
    # One product fewer is added than there are, for every output; a transposed convolution with a stride above its
    # kernel leaves outputs without any.
    return layer.macs + max(layer.macs - layer.outputs, 0)


def _molchanov(layer: Layer) -> int:
    if not layer.volume:
        return layer.positions * (2 * layer.fan_in - 1) * layer.fan_out
    return 2 * layer.in_positions * (layer.fan_in * layer.volume + 1) * layer.fan_out


def _thesis(layer: Layer) -> int:
    if not layer.volume:
        return 2 * layer.macs
    return layer.positions * (2 * (layer.fan_in * layer.volume + 1) * layer.fan_out + 1)


FLOPS: dict[str, Callable[[Layer], int]] = {
    "exact": _exact,
    "output": _output,
    "molchanov": _molchanov,
    "thesis": _thesis,
}


@dataclass(frozen=True)
class Cost:
    """Counts of one node or chain; MACs and FLOPs are None where the input's shape is not known."""

    params: int
    macs: int | None
    flops: int | None


def layers(stages: Iterable[Stage], input_shape: tuple[int, ...], bias: bool, scalings: int = 0) -> Iterator[Layer]:
    """The layers of a chain on an input (batch, in, *spatial); bias and scalings belong to the last."""
    batch, size = input_shape[0], input_shape[2:]
    chain = list(stages)
    for i, stage in enumerate(chain):
        out_size = stage.window.output_size(size)
        before, after, last = batch * math.prod(size), batch * math.prod(out_size), i == len(chain) - 1
        channels = stage.groups * stage.out
        yield Layer(
            positions=before if stage.window.transposed else after,
            in_positions=before,
            outputs=after * channels,
            fan_in=stage.inp,
            fan_out=channels,
            volume=stage.window.volume if size else 0,
            bias=bias and last,
            scalings=scalings if last else 0,
        )
        size = out_size


def weight_count(stages: Iterable[Stage]) -> int:
    """Weights of a chain."""
    return sum(math.prod(stage.shape) for stage in stages)


def chain_cost(site: Site, stages: Iterable[Stage], convention: str) -> Cost:
    """Cost of a site computed by `stages`; its own cost for `(site.stage,)`."""
    chain = tuple(stages)
    params = weight_count(chain)
    if site.input_shape is None:
        return Cost(params, None, None)
    parts = list(layers(chain, site.input_shape, site.bias, site.scalings))
    return Cost(params, sum(p.macs for p in parts), sum(FLOPS[convention](p) for p in parts))
