from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The command with a scenario layer and an engine that answer at once, in an empty folder with ``s.yaml``."""
    spec = importlib.util.spec_from_file_location("stand_in", STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("name: quick\n")
    module.install(monkeypatch)
    monkeypatch.setattr("fedmomentum.cli.quiet.ENVIRONMENT", {})
    loggers = [logging.getLogger(name) for name in ("flwr", "ray")]
    levels = [logger.level for logger in loggers]
    yield module
    for logger, level in zip(loggers, levels, strict=True):  # hush() is for a process that ends with its command
        vars(logger).pop("setLevel", None)
        logger.setLevel(level)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The same as a program to start; it expects ``s.yaml`` in its folder."""
    (tmp_path / "s.yaml").write_text("name: quick\n")
    return STAND_IN
