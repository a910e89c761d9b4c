"""Real robots through the classifier, and generators that are wrong in known ways."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from sagan_deploy.errors import ConfigError, InputError
from sagan_deploy.training.data.robots import compose_robots
from sagan_deploy.training.quality import evaluate_quality, train_classifier
from sagan_deploy.training.quality.classifier import as_float


@pytest.fixture(scope="module")
def robots():
    return compose_robots(32, per_colour=150)


@pytest.fixture(scope="module")
def classifier(robots):
    torch.set_num_threads(1)
    told = []
    classifier = train_classifier(robots, epochs=5, progress=lambda *step: told.append(step))
    assert told[-1][1] == told[-1][2]
    return classifier


@pytest.fixture
def picks(robots):
    """Real images of a label, as a generator would draw them: `choose(label, z)` gives the number within the class."""

    def make(choose, relabel=lambda label: label):
        rows = [np.flatnonzero(robots.labels == c) for c in range(10)]

        def generate(z, labels):
            chosen = [rows[relabel(c)][choose(c, row) % 150] for c, row in zip(labels, z, strict=True)]
            return as_float(robots.images[chosen])

        return generate

    return make


def _any(label, z):
    return int(abs(z[0]) * 1e4)


def test_the_classifier_knows_colours_and_bodies_it_has_not_seen(classifier):
    assert sum(p.numel() for p in classifier.network.parameters()) == pytest.approx(150_000, rel=0.1)
    assert classifier.accuracy["label"] > 0.98
    assert classifier.accuracy["body"] > 0.85


def test_the_same_seed_trains_the_same_classifier(robots):
    small = dataclasses.replace(robots, images=robots.images[::10], labels=robots.labels[::10], attributes={})
    first, second = (train_classifier(small, epochs=1, seed=3) for _ in range(2))
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(first.accuracy) == {"label"}


def test_real_images_score_like_real_images(robots, classifier, picks):
    report = evaluate_quality(picks(_any), 4, robots, classifier, images_per_class=75)
    assert report.images == 750
    assert report.label_share > 0.98
    assert report.frechet < 5 * report.frechet_real
    kinds, real = report.kinds["body"]
    assert kinds > 0.85 * real > 6
    assert report.spread == pytest.approx(1, abs=0.05)
    assert json.dumps(report.to_dict())


def test_a_collapse_shows_in_diversity_and_not_in_the_label_share(robots, classifier, picks):
    report = evaluate_quality(picks(lambda label, z: 7), 4, robots, classifier, images_per_class=30)
    assert report.label_share > 0.98
    assert report.kinds["body"][0] == pytest.approx(1)
    assert report.kinds["body"][1] > 7
    assert report.spread == report.least_spread == 0
    assert report.frechet > 5 * report.frechet_real


def test_one_collapsed_class_shows_in_the_least_spread(robots, classifier, picks):
    generate = picks(lambda label, z: 0 if label == 4 else _any(label, z))
    report = evaluate_quality(generate, 4, robots, classifier, images_per_class=40)
    assert report.least_spread == 0
    assert [c.name for c in report.classes if c.spread == 0] == [robots.class_names[4]]
    assert report.spread > 0.8


def test_swapped_classes_show_in_the_label_share_only(robots, classifier, picks):
    generate = picks(_any, relabel=lambda label: {0: 1, 1: 0}.get(label, label))
    report = evaluate_quality(generate, 4, robots, classifier, images_per_class=40)
    assert report.label_share == pytest.approx(0.8, abs=0.02)
    assert [c.label_share < 0.1 for c in report.classes] == [True, True] + [False] * 8
    assert report.spread > 0.8


def test_noise_is_far_from_real(robots, classifier):
    def generate(z, labels):
        return np.random.default_rng(0).uniform(-1, 1, (len(z), 3, 32, 32)).astype(np.float32)

    report = evaluate_quality(generate, 4, robots, classifier, images_per_class=20)
    assert report.label_share < 0.4
    assert report.frechet > 20 * report.frechet_real


def test_bytes_and_floats_are_judged_alike(robots, classifier, picks):
    floats = picks(_any)

    def codes(z, labels):
        return np.rint(floats(z, labels) * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1)

    reports = [evaluate_quality(g, 4, robots, classifier, images_per_class=10) for g in (floats, codes)]
    assert reports[0].label_share == reports[1].label_share
    assert reports[0].frechet == pytest.approx(reports[1].frechet, rel=1e-3)


def test_what_cannot_be_measured_is_refused(robots, classifier, picks):
    bare = dataclasses.replace(robots, labels=None, class_names=())
    with pytest.raises(ConfigError, match="has no labels"):
        train_classifier(bare)
    with pytest.raises(ConfigError, match="has no labels"):
        evaluate_quality(picks(_any), 4, bare, classifier)
    with pytest.raises(ConfigError, match="images_per_class"):
        evaluate_quality(picks(_any), 4, robots, classifier, images_per_class=1)
    few = dataclasses.replace(robots, images=robots.images[:20], labels=robots.labels[:20], attributes={})
    with pytest.raises(ConfigError, match="too few"):
        train_classifier(few)
    with pytest.raises(InputError, match=r"shape \(3, 16, 16\)"):
        evaluate_quality(
            lambda z, labels: np.zeros((len(z), 3, 16, 16), np.float32), 4, robots, classifier, images_per_class=2
        )
    with pytest.raises(InputError, match="NaN"):
        evaluate_quality(
            lambda z, labels: np.full((len(z), 3, 32, 32), np.nan, np.float32),
            4,
            robots,
            classifier,
            images_per_class=2,
        )
