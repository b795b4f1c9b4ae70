"""Run folders: what a run leaves behind, written safely and read back as plain tables. Loads no torch by itself."""

from __future__ import annotations

from fedmomentum.runs.atomic import Row, columns
from fedmomentum.runs.folder import RunFolder, slug
from fedmomentum.runs.parameters import load_parameters, loading_snippet, save_parameters
from fedmomentum.runs.provenance import provenance
from fedmomentum.runs.read import Run, list_runs, load_run
from fedmomentum.runs.recorder import Recorder

__all__ = [
    "Recorder",
    "Row",
    "Run",
    "RunFolder",
    "columns",
    "list_runs",
    "load_parameters",
    "load_run",
    "loading_snippet",
    "provenance",
    "save_parameters",
    "slug",
]
