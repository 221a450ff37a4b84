"""Specialists in shadow, and what they would have answered to calls that were served."""

from observations.records import ShadowRecord
from observations.state import StatePaths
from registry.registrar import Note, Registrar
from tests.unit.made_specialists import make_folder, manifest

ANN = Note("ann", "to be proven")
SOON = 4_000_000_000_000
"""After the specialist came to its stage, whenever the test runs."""


def shadow_of(state: StatePaths, name: str) -> str:
    registrar = Registrar(state.root)
    made = registrar.register(
        make_folder(state.root.parent / name, name.encode().ljust(16, b"\x01")), manifest(name), ANN
    )
    registrar.promote(made, ANN)
    return made


def mirrored(specialist: str, number: int, *, agrees: bool = True, said: str = '{"intent": "transfer"}', **other):
    given = {"outcome": "verified", "reference_verified": True, "answer_text": said} | other
    return ShadowRecord(
        id=f"call_{number}:{specialist}",
        at_ms=SOON + number,
        call_id=f"call_{number}",
        specialist=specialist,
        agrees=agrees,
        cost_usd=0.00002,
        latency_ms=60.0,
        reference="big",
        reference_cost_usd=0.001,
        reference_latency_ms=400.0,
        **given,
    )
