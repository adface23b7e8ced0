"""A convolution over frames as matrices: every form of a 3D convolution is y = A conv2d(B x).

B (rows x frames) makes the images that a 2D convolution sees from the frames of the input, and A (frames x rows) the
frames of the output from its results. Both act on the frame axis alone, so they are small, constant, and applied to
all channels and positions by one matrix product. With kt taps in time,

- *taps in*: B lays the kt frames that an output needs side by side as channels; A is the identity.
- *taps out*: B is the identity; a frame gives kt results, and A adds those that belong to the same output.
- *tiles*: B and A are the transforms of Toom and Cook (`toom_cook`), m outputs from m + kt - 1 products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_tucker.forms.toom_cook import algorithm
from onnx_tucker.types import Array, Window


@dataclass(frozen=True)
class Temporal:
    """The first spatial axis of a window, on a known number of frames.

    Attributes:
        frames: of the input.
        outputs: frames of the output.
        stride: between the frames that outputs start at; of a transposed window, that inputs are spread to.
        dilation: between taps.
        pad: frames before the first.
        taps: kernel elements that meet a frame for some output, as a range; the others only see padding.
        transposed: whether inputs are spread out.
    """

    frames: int
    outputs: int
    stride: int
    dilation: int
    pad: int
    taps: range
    transposed: bool

    @classmethod
    def of(cls, window: Window, size: tuple[int, ...]) -> Temporal:
        """The frame axis of a window with explicit pads on an input of `size` (frames, height, width)."""
        stride, dilation, pad = window.strides[0], window.dilations[0], window.pads[0]
        whole = cls(
            size[0], window.output_size(size)[0], stride, dilation, pad, range(window.kernel[0]), window.transposed
        )
        met = np.flatnonzero(whole.meetings().any(axis=(0, 1)))
        taps = range(int(met[0]), int(met[-1]) + 1) if len(met) else range(1)
        return cls(whole.frames, whole.outputs, stride, dilation, pad, taps, window.transposed)

    def meetings(self) -> Array:
        """1 where output t takes frame f by tap k, else 0: (outputs, frames, taps)."""
        t, f = np.arange(self.outputs)[:, None, None], np.arange(self.frames)[None, :, None]
        reach = np.array(self.taps) * self.dilation - self.pad
        meet = f * self.stride + reach == t if self.transposed else t * self.stride + reach == f
        return np.asarray(meet, np.float64)

    @property
    def trivial(self) -> bool:
        """Whether every output is the frame of the same number."""
        same = len(self.taps) == 1 and self.outputs == self.frames
        return same and np.array_equal(self.meetings()[:, :, 0], np.eye(self.frames))

    def taps_in(self) -> Array:
        """B of *taps in*: (outputs * taps, frames), taps the faster."""
        return np.asarray(self.meetings().transpose(0, 2, 1).reshape(-1, self.frames))

    def taps_out(self) -> Array:
        """A of *taps out*: (outputs, frames * taps), taps the faster."""
        return np.asarray(self.meetings().reshape(self.outputs, -1))

    def sure_tap(self) -> int | None:
        """Index of a tap that every output takes exactly once, where there is one: a bias can be added there."""
        counts = self.meetings().sum(axis=1)
        sure = np.flatnonzero((counts == 1).all(axis=0))
        return int(sure[len(sure) // 2]) if len(sure) else None

    def tiles(self, outputs: int) -> Tiles:
        """B and A of *tiles* of so many outputs; only for stride 1.

        Raises:
            ValueError: there is no such algorithm.
        """
        if self.stride != 1 or self.transposed:
            raise ValueError("tiles need stride 1")
        output, kernel, data = algorithm(outputs, len(self.taps))
        products, step = len(data), outputs * self.dilation
        blocks = -(-self.outputs // step)
        images = blocks * self.dilation
        b = np.zeros((products, images, self.frames))
        a = np.zeros((self.outputs, products, images))
        for image in range(images):
            block, phase = divmod(image, self.dilation)
            first = block * step + phase
            for j in range(products):
                frame = first - self.pad + (self.taps.start + j) * self.dilation
                if 0 <= frame < self.frames:
                    b[:, image, frame] += data[:, j]
            for i in range(outputs):
                if first + i * self.dilation < self.outputs:
                    a[first + i * self.dilation, :, image] += output[i]
        return Tiles(b, a, kernel)


@dataclass(frozen=True)
class Tiles:
    """The transforms of a tiled form.

    Attributes:
        spread: B by product, (products, images, frames).
        gather: A by product, (outputs, products, images).
        kernel: G, (products, taps).
    """

    spread: Array
    gather: Array
    kernel: Array

    @property
    def products(self) -> int:
        """2D convolutions of each tile."""
        return len(self.spread)

    @property
    def images(self) -> int:
        """Images that each of these convolutions sees."""
        return int(self.spread.shape[1])
