"""A call's draws: its own, the same at every look, and as normal as a generator's."""

import numpy as np
import pytest

from policies.draws import CallDraws

CALLS = [CallDraws(f"chatcmpl-{number}") for number in range(4_000)]
NORMALS = np.array([one.standard_normal((16, 3)) for one in CALLS])


def test_a_call_draws_the_same_again_and_another_call_something_else():
    one, again, other = (CallDraws(name) for name in ("call_1", "call_1", "call_2"))
    assert (one.standard_normal((64, 5)) == again.standard_normal((64, 5))).all()
    assert (one.standard_normal((64, 5)) != other.standard_normal((64, 5))).any()
    assert one.random() == again.random() != other.random()


def test_what_one_call_draws_cannot_be_changed_by_another():
    with pytest.raises(ValueError, match="read-only"):
        CALLS[0].standard_normal((4, 2)).__imul__(2.0)


def test_draws_are_standard_normal_in_every_place():
    assert np.abs(NORMALS.mean(axis=0)).max() < 0.08
    assert np.abs(NORMALS.std(axis=0) - 1.0).max() < 0.06
    assert np.corrcoef(NORMALS[:, 0, 0], NORMALS[:, 1, 1])[0, 1] == pytest.approx(0.0, abs=0.06)


def test_the_uniform_number_is_even_and_owes_nothing_to_the_normals():
    uniform = np.array([one.random() for one in CALLS])
    assert uniform.min() >= 0.0 and uniform.max() < 1.0
    assert np.histogram(uniform, bins=10, range=(0.0, 1.0))[0] == pytest.approx(400, abs=90)
    for normals in (NORMALS[:, 0, 0], NORMALS.mean(axis=(1, 2))):
        assert np.corrcoef(uniform, normals)[0, 1] == pytest.approx(0.0, abs=0.06)


def test_more_candidates_than_the_table_has_numbers_for_are_drawn_all_the_same():
    many = CALLS[0].standard_normal((64, 2_000))
    assert many.shape == (64, 2_000)
    assert many.std() == pytest.approx(1.0, abs=0.05)
