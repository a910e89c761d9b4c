from __future__ import annotations

import pytest

from sagan_deploy.config import TrainConfig
from sagan_deploy.errors import ConfigError
from sagan_deploy.training.schedule import Plan, learning_rate_factor


def test_the_rate_is_flat_and_then_a_straight_line_to_zero():
    factors = [learning_rate_factor(step, 10, 0.5) for step in range(11)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert {learning_rate_factor(step, 10, 1.0) for step in range(10)} == {1.0}
    assert learning_rate_factor(5, None, 0.5) == 1.0


class _Machine:
    """A clock that stands still but for steps, whose speed may change."""

    def __init__(self, speed):
        self.now, self.speed = 0.0, speed

    def run(self, config, minutes):
        plan = Plan(config, minutes, lambda: self.now)
        step, factors = 0, []
        while not plan.done(step):
            factors.append(plan.factor(step))
            self.now += self.speed(step)
            step += 1
            plan.observe(step)
        return step, factors


def test_a_machine_that_stalls_never_revises_a_rate_already_used():
    machine = _Machine(lambda step: 40.0 if step == 100 else 0.1)
    steps, factors = machine.run(TrainConfig(lr_decay_from=0.5), minutes=1)
    assert factors == [learning_rate_factor(step, steps, 0.5) for step in range(steps)]


@pytest.mark.parametrize("decay_from", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_a_steady_machine_takes_the_time_that_it_was_given(decay_from, seconds):
    machine = _Machine(lambda step: seconds)
    steps, factors = machine.run(TrainConfig(lr_decay_from=decay_from), minutes=1)
    assert machine.now == pytest.approx(60, abs=2 * seconds)
    assert factors == [learning_rate_factor(step, steps, decay_from) for step in range(steps)]


def test_a_slow_start_does_not_shorten_the_run():
    """The total is corrected until the rate falls: twenty steps at a bad moment would give a tenth of the run."""
    machine = _Machine(lambda step: 1.0 if step < 20 else 0.1)
    steps, factors = machine.run(TrainConfig(lr_decay_from=0.5), minutes=2)
    assert 90 < machine.now < 125
    assert steps > 800
    assert factors == [learning_rate_factor(step, steps, 0.5) for step in range(steps)]


def test_a_time_shorter_than_the_measurement_still_ends():
    steps, _ = _Machine(lambda step: 1.0).run(TrainConfig(lr_decay_from=0.5), minutes=0.01)
    assert 20 <= steps <= 40


def test_given_steps_are_kept():
    plan = Plan(TrainConfig(steps=7), None, lambda: 0.0)
    for step in range(7):
        plan.observe(step)
        assert not plan.done(step)
    assert plan.done(7)


def test_times_that_make_no_sense():
    for minutes in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="minutes"):
            Plan(TrainConfig(), minutes, lambda: 0.0)
    with pytest.raises(ConfigError, match="lr_decay_from=0"):
        Plan(TrainConfig(lr_decay_from=0.0), 1.0, lambda: 0.0)
