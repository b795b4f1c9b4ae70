"""What Python's collector is kept from, and that it is given back."""

from __future__ import annotations

import gc
import weakref

import pytest

from fedmomentum.garbage import no_search, set_aside


class Ring:
    """Refers to itself: only a search finds out that nobody needs it."""

    def __init__(self) -> None:
        self.itself = self


def test_no_search_ends_however_it_ends() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), no_search():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with no_search():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_there_is_set_aside_and_what_comes_is_still_collected() -> None:
    old = Ring()
    before = weakref.ref(old)
    with pytest.raises(KeyError), set_aside():
        del old
        with set_aside():  # the inner one leaves it to the outer one
            pass
        assert gc.get_freeze_count()
        new = weakref.ref(Ring())
        gc.collect()
        assert before() is not None and new() is None
        raise KeyError
    assert not gc.get_freeze_count()
    gc.collect()
    assert before() is None
