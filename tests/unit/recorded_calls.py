"""Recorded calls for tests of the store: made, spooled, asked for."""

from observations.records import AttemptRecord, CallRecord, PlanRecord
from observations.spool import Spool
from observations.store import open_reader

START_MS = 1_790_000_000_000


def call(number, **fields):
    values = {
        "cluster": "billing",
        "messages": [{"role": "user", "content": f"say {number} 'quoted' \x00 \N{PILE OF POO}"}],
        "answer_text": "ok",
        "served_by": "small@0123456789ab",
        "outcome": "verified",
        "attempts": (AttemptRecord("small@0123456789ab", "echo", "verified", latency_ms=10.0, cost_usd=0.5),),
        "plan": PlanRecord(id=f"plan_{number}", primary="small@0123456789ab", inputs={"user_tier": "gold"}),
    }
    return CallRecord(id=f"chatcmpl-{number:026d}", at_ms=START_MS + number, **(values | fields))


def spool_up(state, *events):
    spool = Spool.open(state.spool)
    for event in events:
        assert spool.append(event)
    spool.close()


def ask(state, query, *parameters):
    store = open_reader(state)
    try:
        return store.execute(query, parameters).fetchall()
    finally:
        store.close()


def count(state, table="slm_observation_raw"):
    return ask(state, f"SELECT count(*), count(DISTINCT id) FROM {table}")[0]
