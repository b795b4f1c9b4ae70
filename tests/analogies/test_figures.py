from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
