"""The trained model as a file that anything can read: safetensors, names as in the model's ``state_dict``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedmomentum.errors import UserError
from fedmomentum.runs.atomic import write_with

if TYPE_CHECKING:
    from torch import Tensor

    from fedmomentum.trees import Tree


def save_parameters(path: Path, tree: Mapping[str, Tensor], *, metadata: Mapping[str, object] | None = None) -> None:
    """Write named tensors to a safetensors file atomically, on whatever device and in whatever layout they are.

    Args:
        path: the file, conventionally ``model.safetensors``.
        tree: parameters and buffers by name.
        metadata: facts to store beside them; written as text.
    """
    from safetensors.torch import save_file

    from fedmomentum import __version__

    # The format refuses views of one storage (stacked clients, tied weights): each tensor gets memory of its own.
    owned: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, x in tree.items():
        own = x.detach().cpu().contiguous()
        if own.untyped_storage().nbytes() != own.nbytes or own.data_ptr() in places:
            own = own.clone()
        places.add(own.data_ptr())
        owned[name] = own
    facts = {"format": "pt", "fedmomentum": __version__} | {key: str(value) for key, value in (metadata or {}).items()}

    def fill(temporary: Path) -> None:
        save_file(owned, temporary, metadata=facts)
        _sort_metadata(temporary)

    write_with(path, fill)


def _sort_metadata(path: Path) -> None:
    """Put the metadata in order: safetensors writes them in another order each time, and one model is one file."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the format pads with spaces
            file.seek(8)
            file.write(text.ljust(length))


def load_parameters(path: Path) -> Tree:
    """Read what :func:`save_parameters` wrote, onto the CPU.

    Raises:
        UserError: there is no such file, or it is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no model was saved here") from error
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from error


def loading_snippet(path: Path) -> str:
    """Give the lines of Python that load a saved model, for people to copy."""
    return f'from safetensors.torch import load_file\nmodel.load_state_dict(load_file("{path.as_posix()}"))'
