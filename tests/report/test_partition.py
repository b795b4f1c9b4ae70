from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmomentum.report import draw_partition
from fedmomentum.report.partition import BINS, MOST_BARS, MOST_COLOURS


def counts(clients: int, classes: int, alpha: float = 0.3) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([alpha] * classes, clients)
    return np.stack([rng.multinomial(20 + k % 7, p) for k, p in enumerate(shares)])


def texts(path: Path) -> str:
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text()))


@pytest.mark.parametrize(
    ("clients", "classes", "bars"),
    [
        (1, 1, True),
        (10, 10, True),
        (MOST_BARS, MOST_COLOURS, True),
        (MOST_BARS + 1, 10, False),
        (20, MOST_COLOURS + 1, False),
        (3000, 10, False),
    ],
)
def test_few_clients_are_bars_and_many_a_summary(tmp_path: Path, clients: int, classes: int, bars: bool) -> None:
    table = counts(clients, classes)
    svg, png = draw_partition(table, folder=tmp_path, question="Who holds what?")
    assert (svg.name, png.name) == ("partition.svg", "partition.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    written = texts(svg)
    assert "Who holds what?" in written
    noun = "client" if clients == 1 else "clients"
    assert f"{clients} {noun}; {table.sum()} examples; sizes {table.sum(1).min()} to {table.sum(1).max()}" in written
    assert ("clients, ordered by their commonest class" in written) == (not bars)


def test_one_bar_a_client_and_class(tmp_path: Path) -> None:
    svg, _ = draw_partition([[3, 1], [0, 2], [5, 5]], folder=tmp_path, class_names=["cat", "dog"])
    written = texts(svg)
    assert "cat" in written and "dog" in written and "sizes 2 to 10, median 4" in written
    # commonest class: 3/4, 2/2 and 5/10 of a client, so 75% in the mean
    assert "commonest class 75% of a client" in written


def test_clients_without_examples_are_counted(tmp_path: Path) -> None:
    svg, _ = draw_partition([[0, 0], [1, 1]], folder=tmp_path)
    assert "1 without examples" in texts(svg)
    assert draw_partition(np.zeros((200, 3), dtype=int), folder=tmp_path, name="empty")


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    table = counts(2 * BINS, 5)
    first = draw_partition(table, folder=tmp_path / "a")
    again = draw_partition(table, folder=tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


@pytest.mark.parametrize(
    ("table", "names", "message"),
    [
        ([1, 2, 3], None, r"\[clients, classes\], not \[3\]"),
        (np.zeros((0, 3)), None, r"not \[0, 3\]"),
        ([[1, 2]], ["cat"], "1 class names for 2 classes"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, table: object, names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_partition(table, folder=tmp_path, class_names=names)  # type: ignore[arg-type]


def test_importing_report_loads_no_matplotlib() -> None:
    code = "import sys, fedmomentum.report; print([m for m in ('matplotlib', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
