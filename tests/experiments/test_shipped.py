"""The experiments that come with the package: their claims hold, and the chapter shows the picture of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmomentum import api, scenario
from fedmomentum.experiments import MODULES
from fedmomentum.experiments.gallery import PICTURES
from fedmomentum.scenario import shipped

ROOT = Path(__file__).resolve().parents[2]
OURS = [name for name in sorted(shipped()) if scenario.load(name).scenario.kind in ("analogy", "optimize")]
QUICK = {"spring", "plateau", "pd_control", "temperature", "rosenbrock", "ravine_race", "four_valleys", "digits_mlp"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in OURS])
def test_what_a_shipped_experiment_claims_holds(name: str, tmp_path: Path) -> None:
    result = api.course(scenario.load(name), out=tmp_path, pictures=False).go()
    assert result.expectations
    assert all(claim.ok for claim in result.expectations), [c.text for c in result.expectations if not c.ok]
    assert result.status == "finished"


def test_every_analogy_and_its_picture_are_in_the_chapter() -> None:
    text = (ROOT / "docs" / "momentum.md").read_text(encoding="utf-8")
    shown = {place.split(".")[0] for place in re.findall(r"\(images/([\w.]+)\)", text)}
    assert shown == set(PICTURES) == set(OURS)
    for name, picture in PICTURES.items():
        file = ROOT / "docs" / "images" / f"{name}{Path(picture).suffix}"
        assert 4096 < file.stat().st_size < 300 * 1024, file
        assert f"fedmomentum run {name}" in text


def test_every_analogy_ships_a_scenario() -> None:
    from fedmomentum.analogies import ANALOGIES

    assert set(ANALOGIES) <= set(OURS)
    assert "analogy" in MODULES
