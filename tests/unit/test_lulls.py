"""Who waits for a backend to be free of callers is let go when it is, or when patience ends."""

import asyncio

import pytest

from router_service.lulls import Lulls


async def test_a_wait_ends_with_the_last_of_the_callers_calls():
    lulls = Lulls()
    await asyncio.wait_for(lulls.wait("engine", 60), 1)
    with lulls.answering("engine"):
        with lulls.answering("engine"), lulls.answering("other"):
            waiting = asyncio.create_task(lulls.wait("engine", 60))
        await asyncio.sleep(0.05)
        assert not waiting.done() and lulls.is_answering("engine") and not lulls.is_answering("other")
    await asyncio.wait_for(waiting, 1)


async def test_patience_ends_while_a_call_is_still_answered():
    lulls = Lulls()
    with lulls.answering("engine"):
        await asyncio.wait_for(lulls.wait("engine", 0.05), 1)
        assert lulls.is_answering("engine")


async def test_a_call_that_fails_is_over_too():
    lulls = Lulls()
    with pytest.raises(ValueError, match="no"), lulls.answering("engine"):
        raise ValueError("no")
    assert not lulls.is_answering("engine")
