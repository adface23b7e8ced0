"""Synthetic RGB-D clips of racket strokes: the task that `models/strokes.onnx` is trained on.

Every clip shows a right-handed player who plays one stroke. In a *forehand* the racket starts on the side of the
playing arm and swings across the body; in a *backhand* it starts across the body and swings out. Everything else
is nuisance: the player's size, build, place and colours, the camera's angle and shake, tempo and onset of the
stroke, background, light, noise, and things that move past in front of and behind the player.

A clip is a function of (seed, index) alone, so calibration, training and test sets are ranges of seeds and indices
and no file needs to be shipped. Needs numpy only.

    python models/clips.py OUT.npz [--count 16]        writes calibration clips, key `clip`
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAMES, HEIGHT, WIDTH = 28, 120, 160
LABELS = ("forehand", "backhand")
TRAIN, VALIDATION, CALIBRATION, TEST = 1, 2, 3, 4  # the seeds of the four disjoint sets

Array = NDArray[np.float64]


class Limb(NamedTuple):
    """A thick line in the image: ends (x, y) in pixels, depth in metres, radius in pixels."""

    start: Array
    end: Array
    depth: float
    radius: float
    colour: Array


def clip(seed: int, index: int) -> tuple[NDArray[np.float32], int]:
    """One clip and its label.

    Args:
        seed: which set (`TRAIN`, `VALIDATION`, `CALIBRATION`, `TEST`).
        index: which clip of the set.

    Returns:
        Red, green, blue and nearness as float32 in [-1, 1], shape (4, 28, 120, 160), and the index into `LABELS`.
    """
    rng = np.random.default_rng([seed, index])
    label = int(rng.integers(2))
    canvas = _background(rng)
    player, distractors = _player(rng, label), _distractors(rng)
    for frame, image in enumerate(canvas):
        limbs = [limb for thing in (player, *distractors) for limb in thing[frame]]
        for limb in sorted(limbs, key=lambda limb: -limb.depth):
            _paint(image, limb)
    light = 1 + rng.uniform(0, 0.15) * np.sin(rng.uniform(0, 6.3) + rng.uniform(0.1, 1) * np.arange(FRAMES))
    canvas[..., :3] *= light[:, None, None, None]
    canvas += rng.normal(size=canvas.shape) * rng.uniform(0.02, 0.08)
    canvas[..., 3][rng.random(canvas.shape[:3]) < rng.uniform(0, 0.1)] = 0  # depth cameras drop pixels
    levels = np.rint(np.clip(canvas, 0, 1) * 255) / 127.5 - 1
    return np.ascontiguousarray(levels.transpose(3, 0, 1, 2), np.float32), label


def clips(seed: int, count: int, start: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clips `start` to `start + count` of a set: inputs (count, 4, 28, 120, 160) and labels (count,)."""
    pairs = [clip(seed, start + i) for i in range(count)]
    return np.stack([pixels for pixels, _ in pairs]), np.array([label for _, label in pairs])


def _background(rng: np.random.Generator) -> Array:
    """A blurred texture far away, shifted by the camera's shake: (frames, height, width, 4)."""
    margin = 8
    size = (HEIGHT + 2 * margin, WIDTH + 2 * margin)
    image = np.empty((*size, 4))
    for channel in range(4):
        coarse = rng.random((rng.integers(3, 12), rng.integers(3, 16)))
        image[..., channel] = _stretch(coarse, size)
    contrast = rng.uniform(0.2, 0.9)
    image[..., :3] = rng.uniform(0.2, 0.8, 3) + contrast * (image[..., :3] - 0.5)
    image[..., 3] = 0.05 + 0.15 * image[..., 3]
    steps = rng.normal(size=(FRAMES, 2)) * rng.uniform(0, 1.0)
    shake = np.clip(np.rint(np.cumsum(steps, 0)), -margin, margin).astype(int) + margin
    return np.stack([image[y : y + HEIGHT, x : x + WIDTH] for y, x in shake])


def _stretch(coarse: Array, size: tuple[int, int]) -> Array:
    """Bilinear enlargement of a small image."""
    rows = np.linspace(0, coarse.shape[0] - 1, size[0])
    columns = np.linspace(0, coarse.shape[1] - 1, size[1])
    across = np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in coarse])
    return np.stack([np.interp(rows, np.arange(coarse.shape[0]), column) for column in across.T], axis=1)


def _player(rng: np.random.Generator, label: int) -> list[list[Limb]]:
    """The limbs of the player in every frame.

    The body stands in metres, x to the player's right, y up, z out of the chest; it is then turned by the camera's
    angle about y and projected.
    """
    tall, wide, arm, racket = rng.uniform(0.85, 1.15, 4) * (1.75, 0.22, 0.58, 0.65)
    hip, shoulder = 0.52 * tall, 0.82 * tall
    progress = _swing(rng)
    # Azimuth of the arm about the vertical, 0 = straight ahead, positive = to the playing side.
    begin, finish = rng.uniform(85, 130), rng.uniform(-75, -20)
    if LABELS[label] == "backhand":
        begin, finish = rng.uniform(-95, -50), rng.uniform(55, 110)
    azimuth = np.radians(begin + (finish - begin) * progress)
    lift = np.radians(rng.uniform(-50, 0) + rng.uniform(10, 70) * progress)
    lag = np.radians(rng.uniform(10, 50)) * np.sign(begin - finish) * (1 - progress)
    bend = rng.uniform(0.6, 0.95)
    sway = rng.uniform(-0.25, 0.25) * np.linspace(0, 1, FRAMES) + rng.normal() * 0.02
    twist = np.radians(rng.uniform(5, 35)) * np.sin(azimuth)
    stance = rng.uniform(0.12, 0.3)
    other = np.array([-wide - rng.uniform(0, 0.3), shoulder - rng.uniform(0.1, 0.5), rng.uniform(0, 0.4)])
    skin, shirt, trousers, frame_colour = rng.uniform(0, 1, (4, 3))
    view, scale = np.radians(rng.uniform(-40, 40)), rng.uniform(34, 52)
    distance, place = rng.uniform(3, 5), np.array([rng.uniform(55, 105), rng.uniform(104, 118)])

    def project(point: Array) -> tuple[Array, float]:
        x = np.cos(view) * point[0] + np.sin(view) * point[2]
        z = np.cos(view) * point[2] - np.sin(view) * point[0]
        near = distance / (distance - z)
        # The player faces the camera, so the playing side is on the image's left.
        return place + scale * near * np.array([-x, -point[1]]), distance - z

    frames = []
    for t in range(FRAMES):
        direction = np.array(
            [np.sin(azimuth[t]) * np.cos(lift[t]), np.sin(lift[t]), np.cos(azimuth[t]) * np.cos(lift[t])]
        )
        trail = azimuth[t] + lag[t]
        blade = np.array([np.sin(trail) * np.cos(lift[t]), np.sin(lift[t]), np.cos(trail) * np.cos(lift[t])])
        move = np.array([sway[t], 0, 0])
        right = np.array([wide * np.cos(twist[t]), shoulder, -wide * np.sin(twist[t])])
        left = right * (-1, 1, -1)
        elbow = right + 0.5 * arm * direction - np.array([0, (1 - bend) * arm, 0])
        hand = right + bend * arm * direction
        head, waist, neck = np.array([0, 0.93 * tall, 0]), np.array([0, hip, 0]), np.array([0, shoulder, 0])
        feet = [np.array([side * stance, 0, 0]) for side in (-1, 1)]
        bones = [
            (waist, neck, 0.8 * wide, shirt),
            (left, right, 0.07, shirt),
            (head, head, 0.11, skin),
            *[(waist, foot, 0.08, trousers) for foot in feet],
            (left, other, 0.05, skin),
            (right, elbow, 0.055, skin),
            (elbow, hand, 0.045, skin),
            (hand, hand + 0.5 * racket * blade, 0.02, frame_colour),
            (hand + 0.75 * racket * blade, hand + 0.9 * racket * blade, 0.12, frame_colour),
        ]
        limbs = []
        for start, end, radius, colour in bones:
            (p, near), (q, far) = project(start + move), project(end + move)
            depth = (near + far) / 2
            limbs.append(Limb(p, q, depth, scale * distance / depth * radius, colour))
        frames.append(limbs)
    return frames


def _swing(rng: np.random.Generator) -> Array:
    """How far the stroke has come in every frame, from 0 to 1."""
    middle, speed = rng.uniform(0.3, 0.7) * FRAMES, rng.uniform(0.35, 1.1)
    return np.asarray(1 / (1 + np.exp(-speed * (np.arange(FRAMES) - middle))))


def _distractors(rng: np.random.Generator) -> list[list[list[Limb]]]:
    """Balls and bars that cross the picture, or swing in it, in front of or behind the player."""
    things = []
    for _ in range(rng.integers(0, 5)):
        colour, depth, radius = rng.uniform(0, 1, 3), rng.uniform(1.5, 7), rng.uniform(2, 7)
        size = (WIDTH, HEIGHT)
        origin, target = rng.uniform(0, 1, 2) * size, rng.uniform(0, 1, 2) * size
        length, angle = rng.uniform(0, 30), rng.uniform(0, 6.3)
        turn = rng.uniform(-3, 3) * _swing(rng)
        path = origin + (target - origin) * _swing(rng)[:, None]
        ends = path + length * np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1)
        things.append([[Limb(a, b, depth, radius, colour)] for a, b in zip(path, ends, strict=True)])
    return things


def _paint(image: Array, limb: Limb) -> None:
    """Draw a limb over an image (height, width, 4), nearness in the last channel."""
    low = np.floor(np.minimum(limb.start, limb.end) - limb.radius - 1).astype(int)
    high = np.ceil(np.maximum(limb.start, limb.end) + limb.radius + 2).astype(int)
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))
    if x0 >= x1 or y0 >= y1:
        return
    x, y = np.arange(x0, x1)[None, :] - limb.start[0], np.arange(y0, y1)[:, None] - limb.start[1]
    dx, dy = limb.end - limb.start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    cover = np.clip(limb.radius + 0.5 - np.hypot(x - along * dx, y - along * dy), 0, 1)[..., None]
    value = np.append(limb.colour, np.clip(1.5 / limb.depth, 0, 1))
    patch = image[y0:y1, x0:x1]
    patch += cover * (value - patch)


def main() -> None:
    """Writes unlabelled calibration clips to a file."""
    parser = argparse.ArgumentParser(description="Draw calibration clips for models/strokes.onnx.")
    parser.add_argument("out", help=".npz file to write")
    parser.add_argument("--count", type=int, default=16, help="number of clips")
    args = parser.parse_args()
    np.savez(args.out, clip=clips(CALIBRATION, args.count)[0])


if __name__ == "__main__":
    main()
