from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmomentum.analogies import ANALOGIES
from fedmomentum.analogies.figures import draw, main


def test_a_figure_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name, only=["phase_space"]) for name in ("a", "b"))
    assert [f.name for f in first] == ["phase_space.svg", "phase_space.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first[1].read_bytes().startswith(b"\x89PNG") and b"<svg" in first[0].read_bytes()[:1000]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path), "--only", "spring", "--formats", "svg"])
    assert [f.name for f in tmp_path.iterdir()] == ["spring.svg"]
    assert "spring.svg" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--only", "sprung"])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ANALOGIES))
def test_every_figure_is_small(name: str, tmp_path: Path) -> None:
    assert all(f.stat().st_size < 200 * 1024 for f in draw(tmp_path, only=[name]))


def test_matplotlib_loads_only_when_something_is_drawn() -> None:
    code = "import sys, fedmomentum.analogies; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_picture_is_that_of_the_settings(tmp_path: Path) -> None:
    ANALOGIES["spring"].draw(tmp_path, momentum=0.3, steps=50)
    shown = labels((tmp_path / "spring.svg").read_text("utf-8"))
    assert "β = 0.30, creeps" in shown and "β = 0.81, critical" in shown
    assert "lr · curvature = 0.01" in shown


def test_defaults_draw_the_scene_of_the_chapter(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def figure(folder: Path, *, lr: float = 0.04, momentum: float = 0.95) -> None:
        asked.append({"lr": lr, "momentum": momentum})

    spring = dataclasses.replace(ANALOGIES["spring"], figure=figure)
    spring.draw(tmp_path)
    spring.draw(tmp_path, **{**spring.options, "steps": 50})  # the figure has no steps
    spring.draw(tmp_path, momentum=0.3)
    scene = {"lr": 0.04, "momentum": 0.95}
    assert asked == [scene, scene, {"lr": spring.options["lr"], "momentum": 0.3}]


def labels(svg: str) -> str:
    """Give the texts of a picture, which matplotlib keeps as comments beside their outlines."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg))


def test_a_figure_takes_options_of_its_experiment_only() -> None:
    for analogy in ANALOGIES.values():
        takes = set(inspect.signature(analogy.figure).parameters) - {"folder"}
        assert takes <= set(analogy.options), analogy.name
