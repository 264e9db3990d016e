"""sources/shapes.py: the embedded dataset is deterministic, exactly long-tailed, and refuses wrong options."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.data.sources.base import SPLITS, described
from fastlt.data.sources.shapes import COMBINATIONS, Shapes
from fastlt.data.sources.shapes_draw import PATTERNS, SIDES, SILHOUETTES


def test_bytes_depend_on_seed_split_and_index_only():
    source = Shapes()
    first = source.load("train", 5)
    assert first == Shapes(val_per_class=3).load("train", 5) == pickle.loads(pickle.dumps(source)).load("train", 5)
    assert len({first, source.load("train", 6), source.load("val", 5), Shapes(seed=1).load("train", 5)}) == 4


def test_counts_follow_the_exponential_law_exactly():
    counts = Shapes().train_counts
    ordered = np.sort(counts)[::-1]
    law = Shapes().max_per_class * 100.0 ** (-np.arange(len(counts)) / (len(counts) - 1))
    assert len(counts) == len(COMBINATIONS) == 36
    assert np.abs(ordered - law).max() <= 0.5
    assert ordered[0] == 100 * ordered[-1]
    groups = [(counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()]
    assert min(groups) >= 10


def test_balanced_when_imbalance_is_one():
    assert set(Shapes(imbalance=1, max_per_class=7).train_counts) == {7}


def test_every_silhouette_and_pattern_is_in_every_third_of_the_order():
    order = np.argsort(-Shapes().train_counts, kind="stable").reshape(3, -1)
    for third in order:
        silhouettes, patterns = zip(*(COMBINATIONS[label] for label in third), strict=True)
        assert set(silhouettes) == set(SILHOUETTES)
        assert all(patterns.count(pattern) == len(third) / len(PATTERNS) for pattern in PATTERNS)


def test_splits():
    source = Shapes(val_per_class=2, test_per_class=3)
    assert tuple(source.splits) == SPLITS
    for split, listing in source.splits.items():
        assert len(set(listing.keys)) == len(listing.keys) == len(listing.labels)
        assert listing.labels.dtype == np.int64
        assert set(listing.labels) == set(range(len(source.class_names))), split
    assert np.array_equal(np.bincount(source.splits["train"].labels), source.train_counts)
    assert set(np.bincount(source.splits["val"].labels)) == {2}
    assert set(np.bincount(source.splits["test"].labels)) == {3}
    assert len(set(source.class_names)) == 36
    label = source.splits["test"].labels[-1]
    assert source.class_names[label] in source.where("test", len(source.splits["test"].labels) - 1)


def test_pickle_carries_options_only():
    source = Shapes()
    source.load("val", 0)
    assert len(pickle.dumps(source)) < 500
    assert pickle.loads(pickle.dumps(source)) == source


def test_every_class_decodes_as_rgb_of_the_stated_size():
    source = Shapes(test_per_class=1)
    sizes = set()
    for index in range(len(source.class_names)):
        with Image.open(io.BytesIO(source.load("test", index))) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert all(SIDES[0] <= side <= SIDES[1] for side in picture.size)
            assert np.asarray(picture).std() > 5
            sizes.add(picture.size)
    assert len(sizes) > 18


def test_fewer_classes_are_the_most_frequent_ones_by_the_same_law():
    every, few = Shapes(), Shapes(classes=6)
    order = np.argsort(-every.train_counts, kind="stable")
    assert few.class_names == [every.class_names[place] for place in sorted(order[:6])]
    assert len({silhouette for silhouette, _ in few.combinations}) == 6
    assert np.sort(few.train_counts).tolist() == [4, 10, 25, 63, 159, 400]
    by_count = [few.class_names[place] for place in np.argsort(-few.train_counts)]
    assert by_count == [every.class_names[place] for place in order[:6]]
    assert (few.name, every.name) == ("shapes_6", "shapes")
    assert set(np.bincount(few.splits["test"].labels)) == {25}
    assert pickle.loads(pickle.dumps(few)).class_names == few.class_names
    whole = Shapes(classes=36)
    assert whole.class_names == every.class_names and np.array_equal(whole.train_counts, every.train_counts)
    assert (
        "classes" not in described(every) and described(few)["classes"] == 6
    )  # the default's dataset.json is as it was


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"imbalance": 0.5}, "imbalance=0.5"),
        ({"imbalance": float("nan")}, "imbalance=nan"),
        ({"max_per_class": 50}, "max_per_class=50"),
        ({"max_per_class": 0, "imbalance": 1}, "max_per_class=0"),
        ({"val_per_class": 0}, "val_per_class=0"),
        ({"val_per_class": 2.5}, "val_per_class=2.5"),
        ({"test_per_class": -3}, "test_per_class=-3"),
        ({"classes": 1}, "classes=1 is not in 2..36"),
        ({"classes": 37}, "classes=37"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, named):
    with pytest.raises(UserError) as refusal:
        Shapes(**options)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
