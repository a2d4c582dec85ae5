"""The garbage collector while modules are imported: held back, as it was afterwards, and no object kept for ever."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from esper_core.training._imports import uncollected

if TYPE_CHECKING:
    from collections.abc import Iterator


class Circle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_within_and_everything_can_be_afterwards() -> None:
    with uncollected():
        assert not gc.isenabled()
        lost = weakref.ref(Circle())
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert lost() is None


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_objects_that_the_owner_has_frozen_stay_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with uncollected():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
