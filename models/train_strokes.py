"""Trains `models/strokes.onnx` on the clips of `models/clips.py`, from scratch, on a CPU.

    python models/train_strokes.py [--train 5000] [--out models/strokes.onnx]

Needs torch (the `train` extra). Three phases with one set of weights: first the input convolution is evaluated at
every fourth pixel only and not pooled over the image, then at every second and pooled over 2x2 of its outputs, which
is a sixteenth and a quarter of the work for nearly the same features; then, on a part of the clips, the network as it
is. The validation set chooses the epoch; the test set is scored once, at the end. The weight decay is strong, so that
what the weights keep is what the task needs and not the noise that they started from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import clips
import numpy as np
import onnx
import strokes
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


class Strokes(nn.Module):
    """The thesis network in torch, with the names of `strokes.SHAPES`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(4, 6, (5, 11, 11), padding=(2, 5, 5))
        self.conv2 = nn.Conv3d(6, 16, (5, 11, 11))
        self.fc1, self.fc2, self.fc3 = nn.Linear(2800, 128), nn.Linear(128, 84), nn.Linear(84, 2)
        layers = self.conv1, self.conv2, self.fc1, self.fc2, self.fc3
        for layer in layers:  # torch's default start shrinks the signal at every layer
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, clip: Tensor, step: int = 1, dropout: float = 0.0) -> Tensor:
        """Logits (n, 2) of clips (n, 4, 28, 120, 160); `step` 2 or 4 thins the first layer."""
        x = functional.conv3d(clip, self.conv1.weight, self.conv1.bias, (1, step, step), self.conv1.padding)
        x = functional.max_pool3d(x.relu(), (2, 4 // step, 4 // step))
        x = functional.max_pool3d(self.conv2(x).relu(), (2, 4, 4)).flatten(1)
        x = functional.dropout(x, dropout, self.training)
        x = functional.dropout(self.fc1(x).relu(), dropout, self.training)
        logits: Tensor = self.fc3(self.fc2(x).relu())
        return logits


def draw(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A set of clips as bytes, drawn in parallel."""
    x, y = np.empty((count, 4, clips.FRAMES, clips.HEIGHT, clips.WIDTH), np.uint8), np.empty(count, np.int64)
    with ProcessPoolExecutor() as pool:
        for i, (pixels, label) in enumerate(pool.map(partial(_clip, seed), range(count), chunksize=16)):
            x[i], y[i] = pixels, label
    return x, y


def _clip(seed: int, index: int) -> tuple[NDArray[np.uint8], int]:
    pixels, label = clips.clip(seed, index)
    return np.rint((pixels + 1) * 127.5).astype(np.uint8), label


def batches(
    x: NDArray[np.uint8], y: NDArray[np.int64], order: NDArray[np.int64], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Clips as the network takes them, and their labels, in the given order."""
    for start in range(0, len(order), size):
        index = np.sort(order[start : start + size])
        yield torch.from_numpy(x[index]).float() / 127.5 - 1, torch.from_numpy(y[index])


def accuracy(model: Strokes, x: NDArray[np.uint8], y: NDArray[np.int64], step: int) -> float:
    """Share of clips that are told right."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        right = sum((model(a, step).argmax(1) == b).sum().item() for a, b in batches(x, y, np.arange(len(x)), 16))
    return float(right / len(x))


def main() -> None:
    """Trains, scores on the test set, and writes the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=5000, help="number of training clips")
    parser.add_argument("--epochs", type=int, nargs=3, default=(4, 2, 1), help="epochs of the three phases")
    parser.add_argument("--decay", type=float, default=2.0, help="weight decay")
    parser.add_argument("--out", type=Path, default=strokes.PATH)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train = draw(clips.TRAIN, args.train)
    validation = draw(clips.VALIDATION, 300)
    model = Strokes()
    counts = (args.train, args.train, args.train // 2)
    for step, epochs, rate, count in zip((4, 2, 1), args.epochs, (1e-3, 5e-4, 2e-4), counts, strict=True):
        optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=args.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * -(-count // 16))
        best, kept = 0.0, {name: value.clone() for name, value in model.state_dict().items()}
        for epoch in range(epochs):
            model.train()
            began, losses = time.monotonic(), []
            for a, b in batches(*train, rng.permutation(args.train)[:count], 16):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(a, step, dropout=0.2)
                loss = functional.cross_entropy(logits.float(), b, label_smoothing=0.05)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            score = accuracy(model, *validation, step)
            if score >= best:
                best, kept = score, {name: value.clone() for name, value in model.state_dict().items()}
            print(
                f"step {step} epoch {epoch}: loss {np.mean(losses):.3f}, validation {score:.3f}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        model.load_state_dict(kept)
    test = draw(clips.TEST, 1000)
    print(f"test accuracy {accuracy(model, *test, 1):.4f} of {len(test[1])}")
    onnx.save(strokes.build({name: value.numpy() for name, value in model.state_dict().items()}), args.out)


if __name__ == "__main__":
    main()
