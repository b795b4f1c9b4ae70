"""Where the records of a round lie in memory must not show in what clients send."""

from __future__ import annotations

import numpy as np
import pytest

from fedmomentum.clients.worker import Worker
from tests.clients.federation import federation, records, spec, train_task


def lying_at(offset, arrays):
    """Give the same numbers in memory that begins so many bytes after a multiple of 64."""
    out = {}
    for name, x in arrays.items():
        room = np.zeros(x.nbytes + 128, np.uint8)
        start = -room.ctypes.data % 64 + offset
        out[name] = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        out[name][...] = x
        assert out[name].ctypes.data % 64 == offset
    return out


@pytest.mark.parametrize("vectorize", ["on", "off"])
@pytest.mark.parametrize("kind", ["train", "gradient"])
def test_bits_do_not_depend_on_where_the_model_lies(vectorize, kind):
    wanted, rng = spec(vectorize=vectorize), np.random.default_rng(0)
    worker = Worker(wanted, federation())
    model = {name: rng.standard_normal(x.shape).astype(x.dtype) for name, x in records(wanted)["arrays"].items()}
    found = [
        worker.run(train_task(kind=kind), {"arrays": lying_at(offset, model)}).each for offset in (0, 4, 16, 32, 48)
    ]
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for record, arrays in one.items():
                for name, x in arrays.items():
                    np.testing.assert_array_equal(x, two[record][name])
