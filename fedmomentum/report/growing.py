"""JSON-lines files that another process may still be writing: read what is whole, and later what has come since."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from fedmomentum.runs import Row

CHUNK = 1 << 20


class Growing:
    """A file of rows that is read in pieces, as it grows.

    A line is whole when its line end is there. A line that is not a JSON object is passed over and counted: one bad
    line is no reason to show nothing of a run. A file that was replaced or cut off (a resumed run drops rows that it
    does again) is read anew.
    """

    def __init__(self, path: Path) -> None:
        """Take the file, which need not be there yet."""
        self.path = path
        self.damaged = 0
        """Whole lines that are no JSON object."""
        self.restarted = False
        """Whether the last :meth:`read` began at the file's start again, so that earlier rows no longer count."""
        self._offset = 0
        self._identity: int | None = None

    def read(self) -> Iterator[Row]:
        """Give the rows that have come since the last call, one by one; null reads as NaN."""
        self.restarted = False
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            self._check(os.fstat(file.fileno()))
            file.seek(self._offset)
            rest = b""
            while chunk := file.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._offset += len(line) + 1
                    row = _row(line)
                    if row is None:
                        self.damaged += 1
                    else:
                        yield row

    def _check(self, found: os.stat_result) -> None:
        if self._identity not in (None, found.st_ino) or found.st_size < self._offset:
            self._offset, self.damaged, self.restarted = 0, 0, True
        self._identity = found.st_ino


def _row(line: bytes) -> Row | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {key: math.nan if item is None else item for key, item in value.items()}
