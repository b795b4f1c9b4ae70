"""Paths that move: a GIF by Pillow, or an MP4 by ffmpeg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmomentum.analogies.drawing import COLOURS, INK, look
from fedmomentum.experiments.functions import Function
from fedmomentum.experiments.pictures import Paths, contours, inside, label, view
from fedmomentum.runs.atomic import writing

FRAMES = 90
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
    from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(6.4, 5.0))
        FigureCanvasAgg(figure)
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
        writer: AbstractMovieWriter = PillowWriter(fps=RATE) if place.suffix == ".gif" else FFMpegWriter(fps=RATE)

        unfinished = place.with_name(f".unfinished-{place.name}")  # the writers go by the suffix
        with writing(unfinished):
            with writer.saving(figure, str(unfinished), dpi=90):
                for step in [*steps, *[last] * PAUSE]:
                    for arm, (line, head) in lines.items():
                        path = shown[arm][: step + 1]
                        line.set_data(path[:, 0], path[:, 1])
                        head.set_data(path[-1:, 0], path[-1:, 1])
                    counter.set_text(f"step {step}")
                    writer.grab_frame()
            unfinished.replace(place)
