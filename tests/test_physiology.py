"""One patient: reproducible, askable in any order, plausible, and coupled."""

import numpy as np
import pytest

from simulators.core.physiology import EFFECTS, Episode, Physiology, Profile

MINUTES = np.arange(0.0, 3_600.0, 10.0)


def test_same_seed_same_patient_in_any_order() -> None:
    first, second = Physiology(7), Physiology(7)
    forwards = [first.at(t) for t in MINUTES[:60]]
    backwards = [second.at(t) for t in MINUTES[:60][::-1]]
    assert forwards == backwards[::-1]
    assert Physiology(8).at(0.0) != forwards[0]


@pytest.mark.parametrize("age", [0.1, 4, 12, 30, 85])
@pytest.mark.parametrize("condition", sorted(EFFECTS))
def test_values_stay_within_what_lives(age: float, condition: str) -> None:
    for seed in range(3):
        patient = Physiology(seed, Profile(age_years=age, condition=condition))
        for t in MINUTES[::6]:
            state = patient.at(float(t))
            assert 25 <= state.hr <= 240
            assert 25 < state.dia < state.map < state.sys < 220
            assert 4 <= state.rr <= 70
            assert 35 < state.temp < 41
            assert 75 < state.spo2 <= 100


def test_heart_ripples_with_the_breath_and_answers_pressure() -> None:
    patient = Physiology(3, Profile(age_years=20))
    t = np.arange(0.0, 600.0, 0.25)
    ripple = patient.heart_rate(t) - patient._slow_hr(t)
    assert np.corrcoef(ripple, np.sin(patient.breath(t)))[0, 1] > 0.9
    assert Physiology(3, Profile(age_years=75)).rsa < patient.rsa
    wander = patient._wander["sys"].value(t)
    assert np.corrcoef(patient._slow_hr(t) - patient._slow("hr", t), wander)[0, 1] < -0.9


def test_breath_is_the_integral_of_the_rate() -> None:
    episode = Episode("fever", 100.0, 200.0)
    patient = Physiology(5, Profile(episodes=(episode, Episode("hypoxia", 320.0, 6.0))))
    t = np.arange(0.0, 400.0, 0.01)
    rate = np.gradient(patient.breath(t), t) * 60 / (2 * np.pi)
    assert np.allclose(rate[5:-5], patient._slow("rr", t)[5:-5], atol=0.02)


@pytest.mark.parametrize(
    ("kind", "field", "sign"),
    [("fever", "temp", 1), ("hypoxia", "spo2", -1), ("tachycardia", "hr", 1), ("hypertensive", "sys", 1)],
)
def test_an_episode_comes_and_goes(kind: str, field: str, sign: int) -> None:
    calm = Physiology(2)
    ill = Physiology(2, Profile(episodes=(Episode(kind, 60.0, 120.0),)))
    assert ill.at(50.0) == calm.at(50.0)
    assert ill.at(190.0) == calm.at(190.0)
    assert sign * (getattr(ill.at(120.0), field) - getattr(calm.at(120.0), field)) > 1


def test_lead_off_is_an_episode() -> None:
    patient = Physiology(2, Profile(episodes=(Episode("lead_off", 10.0, 5.0),)))
    assert [patient.at(t).lead_off for t in (9.9, 10.0, 14.9, 15.0)] == [False, True, True, False]
    assert Physiology(2, Profile(condition="lead_off")).lead_off(0.0)


def test_unknown_condition_is_named() -> None:
    with pytest.raises(ValueError, match="'plague'; known: healthy"):
        Physiology(1, Profile(condition="plague"))
