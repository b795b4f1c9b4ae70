"""Whole files that are there in full or not at all, and JSON lines that survive a crash in the middle of one.

A whole file is written beside its place, forced to disk and renamed over it, so a reader (or a process killed at any
moment) sees the old content or the new one. A file of rows only grows; a crash can tear its last line, which readers
leave out and the next writer cuts off.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from fedmomentum.errors import UserError

Row: TypeAlias = dict[str, Any]
"""One line of a JSON-lines file."""


class NotWrittenError(UserError, OSError):
    """A file could not be written; the message names it and says why, and what was there before still is."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell of whatever goes wrong in writing a file or folder with its path.

    Raises:
        NotWrittenError: an ``OSError``, or what safetensors makes of one.
    """
    try:
        yield
    except NotWrittenError:
        raise
    except Exception as error:
        # safetensors' own kind is told by its name: this module loads nothing big
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = _reason(error)
        told = NotWrittenError(f"{path}: cannot be written: {reason}")
        told.strerror = reason
        raise told from error


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return "the disk is full (No space left on device); free space on it"
    words = getattr(error, "strerror", None) or str(error)
    return f"{words}; make it writable" if number in (errno.EACCES, errno.EPERM, errno.EROFS) else words


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, force it to disk and rename it to ``path``.

    Whatever goes wrong on the way, ``path`` keeps its old content and no temporary file stays behind.

    Raises:
        NotWrittenError: the disk is full, or the folder may not be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        try:
            write(temporary)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file (UTF-8, line ends as given) atomically."""
    write_with(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write a value as a whole indented JSON file atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is not there gives an empty one.

    Raises:
        UserError: the file is there but is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {type(value).__name__}, expected a JSON object")
    return value


def append_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows to a JSON-lines file with one write, after cutting off a line that an earlier crash tore.

    Raises:
        NotWrittenError: the disk is full, or the file may not be written to; rows that were there stay.
    """
    _append(path, "".join(_line(row) for row in rows))


def append_columns(path: Path, fixed: Mapping[str, object], table: Mapping[str, Sequence[float]]) -> None:
    """Append the rows of a table of numbers: the lines of :func:`append_rows`, a column at a time.

    Args:
        path: the JSON-lines file.
        fixed: what comes first in every row.
        table: equal-length columns by name.

    Raises:
        ValueError: columns are of unequal lengths.
        NotWrittenError: the disk is full, or the file may not be written to; rows that were there stay.
    """
    if not table:
        return
    known = [f"{_text(name)}: {_text(value)}".replace("%", "%%") for name, value in fixed.items()]
    row = "{" + ", ".join([*known, *(_text(name).replace("%", "%%") + ": %s" for name in table)]) + "}\n"
    _append(path, "".join(map(row.__mod__, zip(*map(_entries, table.values()), strict=True))))


def _append(path: Path, text: str) -> None:
    if not text:
        return
    with writing(path), path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())


def read_rows(path: Path, fault: Callable[[Row], str] = lambda row: "") -> list[Row]:
    """Read a JSON-lines file; no file gives no rows, a torn last line is left out, and null reads as NaN.

    Args:
        path: the file.
        fault: says what is wrong with a row; nothing where it is as it should be.

    Raises:
        UserError: a line other than a torn last one is not a JSON object, or has a fault; the message names file and
            line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    rows: list[Row] = []
    # What follows the last line end is an unfinished write, even where it happens to parse ("1" of "12").
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: holds {type(row).__name__}, expected a JSON object")
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
        if wrong := fault(rows[-1]):
            raise UserError(f"{path}:{number}: {wrong}")
    return rows


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> None:
    """Drop the rows of a JSON-lines file for which ``keep`` is false; the file is replaced only if there are any."""
    rows = read_rows(path)
    kept = [row for row in rows if keep(row)]
    if len(kept) < len(rows):
        write_text(path, "".join(_line(row) for row in kept))


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into one equal-length list a key, in order of first appearance; a missing value is NaN."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key, math.nan) for row in rows] for key in keys}


def finite(value: Any) -> Any:
    """Give plain JSON data: NaN and infinities become None, numpy and torch scalars become Python numbers."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # scalars and arrays of numpy and torch, neither of which this module imports
        return finite(value.tolist())
    return value


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # made once: json.dumps makes one each time


def _text(value: object) -> str:
    try:
        return _encode(value)
    except (ValueError, TypeError):
        return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, default=str)


def _line(row: Mapping[str, object]) -> str:
    return _text(row) + "\n"


def _entries(column: Sequence[float]) -> list[str]:
    """Give the texts of numbers: those of the whole list, taken apart; of equal ones that of the first."""
    if not len(column):
        return []
    numbers = list(column)
    if numbers[0] and len(set(map(type, numbers))) == 1 and len(set(numbers)) == 1:  # zeros have signs
        return [_text(numbers[0])] * len(numbers)
    return _text(numbers)[1:-1].split(", ")


def sync(path: Path) -> None:
    """Force a file or a folder to disk.

    Raises:
        OSError: it turns out only now that the disk is full or broken.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a directory cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        # some network file systems refuse; the rename is atomic all the same
    finally:
        os.close(handle)
