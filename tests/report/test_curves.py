from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from fedmomentum.report import draw_metric
from fedmomentum.report.curves import MOST_DIRECT_LABELS, collect, spread

Rows = list[dict[str, Any]]


def rows(*values: float | None, key: str = "accuracy", first: int = 1) -> Rows:
    """One row a round; None is a round that was not evaluated."""
    return [{"round": n} | ({} if v is None else {key: v}) for n, v in enumerate(values, start=first)]


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_two_arms_give_two_files_with_everything_named(tmp_path: Path) -> None:
    series = {"FedAvg": rows(0.1, 0.5, 0.843), "FedAvgM": rows(0.1, 0.7, 0.912)}
    svg, png = draw_metric(series, folder=tmp_path / "plots", question="Does momentum help?")
    assert (svg, png) == (tmp_path / "plots" / "accuracy.svg", tmp_path / "plots" / "accuracy.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    written = texts(svg)
    for text in ("Does momentum help?", "round", "accuracy", "FedAvg  0.843", "FedAvgM  0.912"):
        assert text in written
    assert [p.name for p in sorted(svg.parent.iterdir())] == ["accuracy.png", "accuracy.svg"]


def test_the_same_numbers_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    def digest(folder: Path) -> list[str]:
        files = draw_metric({"A": rows(0.1, 0.5), "B": rows(0.2, 0.3)}, folder=folder, question="Why?")
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]

    code = (
        "import sys; from pathlib import Path; from fedmomentum.report import draw_metric\n"
        "rows = lambda *v: [{'round': n, 'accuracy': x} for n, x in enumerate(v, start=1)]\n"
        "draw_metric({'A': rows(.1, .5), 'B': rows(.2, .3)}, folder=Path(sys.argv[1]), question='Why?')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True)
    there = [hashlib.sha256((tmp_path / "other" / f"accuracy.{k}").read_bytes()).hexdigest() for k in ("svg", "png")]
    assert digest(tmp_path / "one") == digest(tmp_path / "two") == there


def test_other_numbers_give_another_picture(tmp_path: Path) -> None:
    a, _ = draw_metric({"A": rows(0.1, 0.5)}, folder=tmp_path, name="a")
    b, _ = draw_metric({"A": rows(0.2, 0.5)}, folder=tmp_path, name="b")
    assert a.read_bytes() != b.read_bytes()


def test_drawing_changes_no_state_of_matplotlib(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_metric({"A": rows(0.1, 0.5)}, folder=tmp_path)
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("series", [{}, {"A": []}, {"A": rows(None, None)}, {"A": rows(math.nan)}])
def test_nothing_measured_draws_nothing(tmp_path: Path, series: dict[str, Rows]) -> None:
    assert draw_metric(series, folder=tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_rounds_without_the_metric_are_passed_over() -> None:
    (curve,) = collect({"A": rows(None, 0.2, None, 0.4)}, "accuracy")
    assert (curve.rounds, curve.mean) == ([2, 4], [0.2, 0.4])
    assert not curve.diverged


def test_seeds_are_one_curve_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    series = {
        "lr=0.1, seed=0": rows(0.1, 0.2),
        "lr=1, seed=0": rows(0.5, 0.5),
        "lr=0.1, seed=1": rows(0.2, 0.6),
        "lr=0.1, seed=2": rows(0.3, 0.7),
        "lr=1, seed=1": rows(0.7, 0.9),
    }
    small, large = collect(series, "accuracy")
    assert (small.name, small.seeds, small.low, small.high) == ("lr=0.1", 3, [0.1, 0.2], [0.3, 0.7])
    assert small.mean == pytest.approx([0.2, 0.5])
    assert (large.name, large.seeds) == ("lr=1", 2) and large.mean == pytest.approx([0.6, 0.7])
    written = texts(draw_metric(series, folder=tmp_path)[0])
    assert "line: mean of 2 to 3 seeds; band: lowest to highest" in written and "lr=0.1  0.500" in written


@pytest.mark.parametrize("name", ["seed=0", "A seed=0", "A, seed=12", "seed=3, A", "A/seed=1", "seed=1,A"])
def test_names_of_seeds(name: str) -> None:
    (curve,) = collect({name: rows(0.5)}, "accuracy")
    assert curve.name == ("A" if "A" in name else "")


def test_a_seed_that_diverged_is_not_averaged_away() -> None:
    (curve,) = collect({"A seed=0": rows(0.1, 0.2, 0.3), "A seed=1": rows(0.3, math.nan, math.nan)}, "accuracy")
    assert curve.mean[0] == pytest.approx(0.2)
    assert math.isnan(curve.mean[1]) and math.isnan(curve.mean[2]) and curve.diverged


def test_rounds_that_not_every_seed_reached_are_not_averaged() -> None:
    (curve,) = collect({"A seed=0": rows(0.1, 0.2, 0.3), "A seed=1": rows(0.3, 0.4)}, "accuracy")
    assert curve.rounds == [1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_divergence_is_marked_where_it_began(tmp_path: Path, bad: float | None) -> None:
    broken: Rows = [*rows(0.1, 0.2), {"round": 3, "accuracy": bad}, {"round": 4, "accuracy": bad}]
    svg, _ = draw_metric({"A": rows(0.1, 0.2, 0.3, 0.4), "B": broken}, folder=tmp_path)
    assert "B  diverged in round 3" in texts(svg)


@pytest.mark.parametrize("count", [MOST_DIRECT_LABELS, MOST_DIRECT_LABELS + 1, 40])
def test_every_one_of_many_arms_is_named(tmp_path: Path, count: int) -> None:
    series = {f"m={k}": rows(0.1, k / 100) for k in range(count)}
    written = texts(draw_metric(series, folder=tmp_path)[0])
    assert {f"m={k}  {k / 100:.3f}" for k in range(count)} <= set(written)


def test_a_metric_over_decades_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    svg, _ = draw_metric({"A": rows(1e-4, 1.0, 1e4, key="loss")}, "loss", folder=tmp_path)
    other, _ = draw_metric({"A": rows(1.0, 2.0, 3.0, key="loss")}, "loss", folder=tmp_path, name="x")
    assert "10000" not in "".join(texts(svg))  # the powers are set as 10 with an exponent
    assert {"1", "2", "3"} <= {text.removesuffix(".00") for text in texts(other)}


@pytest.mark.parametrize("seed", range(6))
def test_labels_move_as_little_as_they_can(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, gap = int(rng.integers(2, 9)), 0.09
    wanted = rng.random(n) if seed % 2 else 0.9 + 0.1 * rng.random(n)
    moved = np.array(spread(wanted.tolist(), gap))
    order = np.argsort(-wanted)
    best = minimize(
        lambda y: ((y - wanted) ** 2).sum(),
        np.linspace(0.9, 0.1, n)[np.argsort(order)],
        jac=lambda y: 2 * (y - wanted),
        bounds=[(0, 1)] * n,
        constraints=[{"type": "ineq", "fun": lambda y, a=a, b=b: y[a] - y[b] - gap} for a, b in pairwise(order)],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert best.success
    np.testing.assert_allclose(moved, best.x, atol=1e-5)


def test_labels_that_are_apart_stay_where_they_are() -> None:
    assert spread([0.2, 0.9, 0.5], 0.1) == pytest.approx([0.2, 0.9, 0.5])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.55, 0.45])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([1.0, 0.9])
    assert spread([], 0.1) == []
