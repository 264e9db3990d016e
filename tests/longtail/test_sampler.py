"""Samplers: the laws of the paper's section 4.1, and what `quota` drawing promises."""

from typing import Any

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.longtail import DRAWINGS
from fastlt.longtail.sampler import LAWS, REFERENCE_VISIT, Sampler, class_probabilities, quotas

COUNTS = np.array([500, 210, 77, 30, 9, 1])
START = np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64)
# Ids that are not places: a sampler that confuses the two is found out.
MEMBERS = np.random.default_rng(0).permutation(COUNTS.sum()).astype(np.int64)
LABEL = np.empty(COUNTS.sum(), np.int64)
LABEL[MEMBERS] = np.repeat(np.arange(len(COUNTS)), COUNTS)


def sampler(law: str = "instance", epochs: int = 10, drawing: str = "quota", seed: int = 3) -> Sampler:
    return Sampler(MEMBERS, START, law, seed, epochs, drawing)


@pytest.mark.parametrize(("law", "power"), [("instance", 1.0), ("class", 0.0), ("sqrt", 0.5)])
def test_probabilities_follow_equation_1(law: str, power: float) -> None:
    weight = COUNTS.astype(float) ** power
    np.testing.assert_allclose(class_probabilities(COUNTS, law), weight / weight.sum(), rtol=1e-12)


def test_progressive_goes_from_instance_to_class() -> None:
    instance, balanced = (class_probabilities(COUNTS, law) for law in ("instance", "class"))
    progressive = sampler("progressive", epochs=5)
    np.testing.assert_allclose(progressive.probabilities(0), instance, rtol=1e-12)
    np.testing.assert_allclose(progressive.probabilities(4), balanced, rtol=1e-12)
    np.testing.assert_allclose(progressive.probabilities(1), 0.75 * instance + 0.25 * balanced, rtol=1e-12)
    np.testing.assert_array_equal(progressive.quota(0), sampler("instance", epochs=5).quota(0))
    np.testing.assert_array_equal(progressive.quota(4), sampler("class", epochs=5).quota(4))


def test_classes_without_images_are_never_drawn() -> None:
    counts = np.array([5, 0, 3])
    for law in LAWS:
        assert class_probabilities(counts, law, 0.5)[1] == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_quota_is_within_one_of_expectation_and_sums_to_the_epoch(law: str, epoch: int) -> None:
    chosen = sampler(law)
    expected = chosen.probabilities(epoch) * len(chosen)
    quota = chosen.quota(epoch)
    assert quota.sum() == len(chosen)
    assert (np.abs(quota - expected) < 1).all()
    np.testing.assert_array_equal(np.bincount(LABEL[chosen.order(epoch)], minlength=len(COUNTS)), quota)


def test_quota_is_right_on_average() -> None:
    p = class_probabilities(COUNTS, "sqrt")
    mean = np.mean([quotas(p, 100, seed=1, epoch=epoch) for epoch in range(3000)], axis=0)
    np.testing.assert_allclose(mean, 100 * p, atol=0.05)


def test_instance_is_an_exact_permutation_and_no_two_epochs_are_alike() -> None:
    orders = [sampler().order(epoch) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(COUNTS.sum()))
    assert not np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == MEMBERS) < 0.05


@pytest.mark.parametrize("law", ["class", "sqrt", "progressive"])
def test_no_image_comes_twice_before_all_of_its_class_came_once(law: str) -> None:
    chosen = sampler(law)
    for j in range(len(COUNTS)):
        drawn = np.zeros(COUNTS.sum(), np.int64)
        for epoch in range(4):
            order = chosen.order(epoch)
            np.add.at(drawn, order[LABEL[order] == j], 1)
            # The walk goes on across epochs: counts of a class's images never differ by more than one.
            mine = drawn[j == LABEL]
            assert mine.max() - mine.min() <= 1


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_order_is_a_pure_function_of_seed_and_epoch(drawing: str) -> None:
    a, b = (sampler("class", drawing=drawing).order(5) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, sampler("class", drawing=drawing, seed=4).order(5))
    assert not np.array_equal(a, sampler("class", drawing=drawing).order(6))


@pytest.mark.parametrize("drawing", ["quota", "reference"])
def test_the_order_of_an_epoch_does_not_depend_on_the_epochs_that_were_asked_for_before(drawing: str) -> None:
    alone = [sampler("progressive", drawing=drawing).order(epoch) for epoch in range(6)]
    kept = sampler("progressive", drawing=drawing)
    for epoch in (0, 1, 2, 5, 3, 3, 4, 0):
        np.testing.assert_array_equal(kept.order(epoch), alone[epoch])


def test_iid_draws_classes_by_probability_and_images_evenly() -> None:
    chosen = sampler("sqrt", drawing="iid")
    orders = np.concatenate([chosen.order(epoch) for epoch in range(60)])
    expected = chosen.probabilities(0) * len(orders)
    observed = np.bincount(LABEL[orders], minlength=len(COUNTS))
    assert (np.abs(observed - expected) < 5 * np.sqrt(expected)).all()
    images = np.bincount(orders, minlength=COUNTS.sum())[LABEL == 0]
    assert abs(images.std() / np.sqrt(images.mean()) - 1) < 0.2  # Poisson, as independent draws are


def test_reference_visits_classes_in_turn_four_images_each() -> None:
    order = sampler("class", drawing="reference").order(0)
    visits = LABEL[order[: len(COUNTS) * REFERENCE_VISIT]].reshape(-1, REFERENCE_VISIT)
    assert (visits == visits[:, :1]).all()
    assert sorted(visits[:, 0]) == list(range(len(COUNTS)))


def test_reference_is_a_permutation_for_instance_and_independent_for_a_root() -> None:
    for epoch in (0, 3):
        for law, drawing in (("instance", "quota"), ("sqrt", "iid")):
            theirs, ours = (sampler(law, drawing=one).order(epoch) for one in ("reference", drawing))
            np.testing.assert_array_equal(theirs, ours)


def test_dataloader_is_a_permutation_for_instance_and_independent_for_the_rest() -> None:
    for law, drawing in {**dict.fromkeys(LAWS, "iid"), "instance": "quota"}.items():
        both = [sampler(law, drawing=one).order(2) for one in ("dataloader", drawing)]
        np.testing.assert_array_equal(both[0], both[1])


def test_reference_progressive_draws_classes_alone_and_cycles_their_images() -> None:
    chosen = sampler("progressive", drawing="reference", epochs=4)
    orders = [chosen.order(epoch) for epoch in range(4)]
    for epoch, order in enumerate(orders):
        iid = sampler("progressive", drawing="iid", epochs=4).order(epoch)
        np.testing.assert_array_equal(LABEL[order], LABEL[iid])  # classes as independent draws
    whole = np.concatenate(orders)
    for j, count in enumerate(COUNTS):
        mine = whole[LABEL[whole] == j]
        for begin in range(0, len(mine) - count + 1, count):
            assert len(set(mine[begin : begin + count])) == count  # pass by pass through all of a class, on and on


def test_any_root_of_the_class_sizes() -> None:
    weight = COUNTS ** (1 / 3)
    np.testing.assert_allclose(class_probabilities(COUNTS, "root_3"), weight / weight.sum(), rtol=1e-12)
    for same, law in (("sqrt", "root_2"), ("instance", "root_1")):
        np.testing.assert_array_equal(sampler(law).order(2), sampler(same).order(2))
    assert sampler("root_2.5").quota(0).sum() == COUNTS.sum()
    for wrong in ("root_0.5", "root_", "root_x", "root_-1"):
        with pytest.raises(
            UserError, match=f"sampler={wrong} is unknown: allowed are .*, sampler.name=root_N for q = 1/N"
        ):
            sampler(wrong)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"sampler=foo is unknown: allowed are instance, class, sqrt, progressive"):
        sampler("foo")
    with pytest.raises(UserError, match=r"sampler.drawing=foo is unknown"):
        sampler(drawing="foo")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed=-1: it must be a whole number from 0"),
        ({"seed": None}, "seed=None: it must be a whole number from 0"),
        ({"epochs": 0}, "epochs=0: it must be a whole number from 1"),
        ({"members": list(range(8))}, "members must be a NumPy array of int64"),
        ({"members": np.arange(8, dtype=np.int32)}, "members must be a NumPy array of int64"),
        ({"members": np.empty(0, np.int64)}, "members must be a NumPy array of int64"),
        ({"class_start": np.array([0, 6, 7])}, "class_start must rise from 0 to 8, the number of members"),
        ({"class_start": np.array([0, 9, 8])}, "class_start must rise from 0 to 8, the number of members"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"members": np.arange(8), "class_start": np.array([0, 6, 8]), **wrong}
    with pytest.raises(UserError, match=message):
        Sampler(**given)


def test_shuffle_moves_every_class_everywhere() -> None:
    place = np.concatenate([np.flatnonzero(LABEL[sampler().order(epoch)] == 1) for epoch in range(40)]) / COUNTS.sum()
    np.testing.assert_allclose(np.histogram(place, 10, (0, 1))[0] / len(place), 0.1, atol=0.02)
