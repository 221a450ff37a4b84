"""A state folder whose store holds given events, written as a gateway and its loader write them."""

from observations.loading import load_once
from observations.spool import Spool
from observations.state import StatePaths


def record(state, events):
    """Add events to the store of a state that was created."""
    spool = Spool.open(state.spool)
    for event in events:
        assert spool.append(event)
    spool.close()
    load_once(state)


def recorded(folder, events):
    """Return a new state that holds the events."""
    state = StatePaths(folder).create()
    record(state, events)
    return state
