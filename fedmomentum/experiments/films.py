"""Paths that move: a GIF by Pillow, or an MP4 by ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmomentum.analogies.drawing import COLOURS, INK, look
from fedmomentum.experiments.functions import Function
from fedmomentum.experiments.pictures import Paths, contours, inside, label, view
from fedmomentum.runs.atomic import write_with, writing

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 70
DPI = 80
PAUSE = 20
"""Frames for which the last picture stands."""
RATE = 20


def film(function: Function, paths: Paths, place: Path, question: str) -> None:
    """Write a film of all paths; early steps, in which most happens, take more of its time than late ones.

    Args:
        function: of two coordinates.
        paths: name of an arm -> its points, ``[steps + 1, 2]``.
        place: a ``.gif``, or an ``.mp4`` where ffmpeg is installed.
        question: its title.
    """
    from matplotlib.animation import FFMpegWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(6.4, 5.0), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        box = view(function, paths)
        contours(axes, function, box)
        shown = {arm: inside(path, box) for arm, path in paths.items()}
        lines = {}
        for index, arm in enumerate(shown):
            colour = COLOURS[index % len(COLOURS)]
            (line,) = axes.plot([], [], color=colour, linewidth=1.5, label=label(arm))
            (head,) = axes.plot([], [], "o", color=colour, markersize=6)
            lines[arm] = line, head
        axes.set_title(question, fontsize=9, wrap=True)
        if len(shown) > 1:
            axes.legend(loc="upper right", frameon=True)
        counter = axes.text(0.02, 0.02, "", transform=axes.transAxes, color=INK, fontsize=9)
        last = max(len(path) for path in shown.values()) - 1
        steps = np.unique(np.round(last * np.linspace(0, 1, FRAMES) ** 2).astype(int))

        def show(step: int) -> None:
            for arm, (line, head) in lines.items():
                path = shown[arm][: step + 1]
                line.set_data(path[:, 0], path[:, 1])
                head.set_data(path[-1:, 0], path[-1:, 1])
            counter.set_text(f"step {step}")

        if place.suffix == ".gif":
            frames = [_drawn(canvas, show, int(step)) for step in steps]
            write_with(place, lambda temporary: _gif(temporary, frames))
            return
        unfinished = place.with_name(f".unfinished-{place.name}")  # ffmpeg goes by the suffix
        writer = FFMpegWriter(fps=RATE)
        with writing(unfinished):
            with writer.saving(figure, str(unfinished), dpi=DPI):
                for step in [*steps, *[last] * PAUSE]:
                    show(int(step))
                    writer.grab_frame()
            unfinished.replace(place)


def _drawn(canvas: Any, show: Callable[[int], None], step: int) -> Image:
    from PIL.Image import fromarray

    show(step)
    canvas.draw()
    return fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _gif(place: Path, frames: list[Image]) -> None:
    """Write frames of one palette, without dithering: what stands still in the picture then costs nothing."""
    from PIL.Image import Dither

    last = frames[-1].quantize(96, dither=Dither.NONE)
    plain = [frame.quantize(palette=last, dither=Dither.NONE) for frame in frames]
    durations = [1000 // RATE] * (len(plain) - 1) + [1000 * PAUSE // RATE]
    plain[0].save(
        place, format="GIF", save_all=True, append_images=plain[1:], duration=durations, loop=0, optimize=True
    )
