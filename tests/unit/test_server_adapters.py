"""What one server is believed to hold when its list of adapters is late, and when it cannot be had."""

from __future__ import annotations

import pytest

from registry.entries import BackendEntry
from registry.errors import BackendTimeoutError, BackendUnavailableError
from specialists.echo import EchoBackend
from specialists.server_adapters import CHECK_S, ServerAdapters


class Listing(EchoBackend):
    """Its list of adapters fails with `error`."""

    error: Exception | None = None

    async def served_models(self):
        if self.error is not None:
            raise self.error
        return await super().served_models()


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
async def held(clock):
    held = ServerAdapters(Listing(BackendEntry(name="e", kind="echo")), lambda: clock[0])
    held.want({"a": "folder"})
    assert await held.sync() == [] and held.ready("a")
    clock[0] += CHECK_S
    return held


async def test_a_late_list_takes_no_adapter_away_and_is_asked_for_again_after_a_while(held, clock):
    held.server.error = BackendTimeoutError("5 s have passed", backend="e")
    assert await held.sync() == ["the list of adapters is late: 5 s have passed"]
    assert held.ready("a") and await held.sync() == []
    clock[0] += CHECK_S
    assert len(await held.sync()) == 1 and held.ready("a")


async def test_a_server_that_refuses_has_no_adapter_until_it_lists_them_again(held, clock):
    held.server.error = BackendUnavailableError("refused", backend="e")
    assert await held.sync() == ["the list of adapters cannot be read: refused"]
    assert not held.ready("a") and not held.may_load("a")
    held.server.error = None
    clock[0] += CHECK_S
    assert await held.sync() == [] and held.ready("a")
