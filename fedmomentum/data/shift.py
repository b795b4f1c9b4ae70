"""Feature shift: each client sees the world through a lens of its own (turned, brighter or darker, noisy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmomentum.data.arguments import real
from fedmomentum.data.dataset import Array
from fedmomentum.data.partition import IntArray
from fedmomentum.errors import UserError
from fedmomentum.streams import stream

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureShift:
    """What client c sees of example i is a function of ``(seed, c, i)`` alone: the same at every visit.

        x'_i = gain_c rotate(x_i, angle_c) + noise eps_ci,   eps_ci ~ N(0, 1)
        angle_c ~ U(-rotation, rotation),   gain_c ~ U(1 - gain, 1 + gain)

    Values are not clipped. Turning one of the three on or off changes nothing about the other two.

    Args:
        rotation: largest angle in degrees, in [0, 180]; needs images ``[N, channels, H, W]``.
        noise: standard deviation of the noise on every value, in the unit of x, >= 0.
        gain: largest relative change of the scale of x, in [0, 1).
        seed: of the streams "feature shift" and "feature noise".

    Raises:
        UserError: a value is out of its range.
    """

    rotation: float = 0.0
    noise: float = 0.0
    gain: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        real("feature shift", "rotation", self.rotation, least=0, most=180)
        real("feature shift", "noise", self.noise, least=0)
        real("feature shift", "gain", self.gain, least=0, below=1)

    def check(self, name: str, x: Array) -> None:
        """Refuse a data set whose inputs have no such features.

        Raises:
            UserError: x holds tokens, or rotation is asked of what is not an image.
        """
        if not np.issubdtype(x.dtype, np.floating):
            raise UserError(
                f"feature shift: data set '{name}' has {x.dtype} inputs; only real-valued ones can be shifted"
            )
        if self.rotation and x.ndim != 4:
            raise UserError(
                f"feature shift: rotation needs images [N, channels, H, W]; x of data set '{name}' is {list(x.shape)}"
            )

    def lens(self, client: int) -> tuple[float, float]:
        """Give the angle in degrees and the gain of one client."""
        angle, gain = stream(self.seed, "feature shift", client=client).uniform(-1.0, 1.0, 2)
        return float(self.rotation * angle), float(1.0 + self.gain * gain)

    def apply(self, x: Array, *, client: int, examples: IntArray) -> Floats:
        """Give what ``client`` sees of the rows of ``x``, whose numbers in the data set are ``examples``.

        Args:
            x: ``[n, *shape]``, not changed.
            client: whose lens.
            examples: ``[n]``.
        """
        angle, gain = self.lens(client)
        seen = rotate(x, angle) if self.rotation else x.astype(np.float32)
        if self.gain:
            seen *= np.float32(gain)
        if self.noise:
            seen += np.float32(self.noise) * self._normals(client, examples, x.shape[1:])
        return seen

    def _normals(self, client: int, examples: IntArray, shape: tuple[int, ...]) -> Floats:
        # Philox is a function of (key, counter): the client is the key, the example the counter's highest word, so no
        # two examples share numbers, and finding an example's place costs nothing.
        rng = stream(self.seed, "feature noise", client=client)
        place = dict(rng.bit_generator.state)
        fresh = {**place, "state": dict(place["state"])}
        out = np.empty((len(examples), *shape), np.float32)
        for row, example in zip(out, examples.tolist(), strict=True):
            fresh["state"]["counter"] = np.array([0, 0, 0, example], np.uint64)
            rng.bit_generator.state = fresh
            rng.standard_normal(out=row, dtype=np.float32)
        return out


def rotate(images: Array, degrees: float) -> Floats:
    """Turn images about their centre, counter-clockwise, by bilinear interpolation; what comes from outside is 0.

        out(p) = sum over the four pixels around R(p - centre) + centre of weight * pixel

    Args:
        images: ``[..., H, W]``.
        degrees: angle.
    """
    height, width = images.shape[-2:]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    middle = (height - 1) / 2, (width - 1) / 2
    row, column = (grid - m for grid, m in zip(np.indices((height, width), np.float64), middle, strict=True))
    source_row = cosine * row + sine * column + middle[0]
    source_column = cosine * column - sine * row + middle[1]
    top, left = np.floor(source_row).astype(int), np.floor(source_column).astype(int)
    down, right = source_row - top, source_column - left

    pixels = np.asarray(images, np.float32).reshape(*images.shape[:-2], height * width)
    out = np.zeros(pixels.shape, np.float32)
    for r, row_weight in ((top, 1 - down), (top + 1, down)):
        for c, column_weight in ((left, 1 - right), (left + 1, right)):
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            weight = np.where(inside, row_weight * column_weight, 0).astype(np.float32).reshape(-1)
            out += weight * pixels[..., np.where(inside, r * width + c, 0).reshape(-1)]
    return out.reshape(images.shape)
