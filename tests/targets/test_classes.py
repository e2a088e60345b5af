"""The explained classes, and their probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from cam_hub.errors import ClassNotFound, InvalidArgument
from cam_hub.targets.base import ClassScores
from cam_hub.targets.classes import Prediction, choose_classes, label_of, top

NAMES = ["tench, Tinca tinca", "crane", "lion, king of beasts", "crane", "7"]
SCORES = torch.tensor([0.0, math.log(2), math.log(5), 0.0, math.log(1)])
# softmax: exp = 1, 2, 5, 1, 1; their sum is 10.


def choose(choice):
    return choose_classes(choice, SCORES, NAMES)


def predictions(scores, probabilities, names):
    return list(ClassScores(scores, probabilities).predictions(names))


def test_probabilities_are_those_worked_out_by_hand():
    found = predictions(SCORES, SCORES.softmax(dim=0), NAMES)[:2]
    assert [p.class_index for p in found] == [2, 1]
    assert [p.label for p in found] == ["lion, king of beasts", "crane"]
    assert [p.probability for p in found] == pytest.approx([0.5, 0.2])


def test_equal_scores_come_in_order_of_their_index():
    found = predictions(SCORES, SCORES.softmax(dim=0), NAMES)
    assert [p.class_index for p in found] == [2, 1, 0, 3, 4]


def test_scores_distinguish_equal_rounded_probabilities():
    scores = torch.tensor([1000.0, 2000.0])
    found = predictions(scores, torch.tensor([1.0, 1.0]), None)
    assert found == [Prediction(1, "class 1", 1.0), Prediction(0, "class 0", 1.0)]


def test_a_class_that_is_not_eligible_is_chosen_only_by_name():
    eligible = torch.tensor([True, True, False, True, True])
    assert choose_classes(None, SCORES, NAMES, eligible) == [1]
    assert choose_classes(top(9), SCORES, NAMES, eligible) == [1, 0, 3, 4]
    assert choose_classes("lion", SCORES, NAMES, eligible) == [2]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, [2]),
        (0, [0]),
        (torch.tensor(1), [1]),
        ("lion, king of beasts", [2]),
        ("LION", [2]),
        ("king of beasts", [2]),
        (" tench ", [0]),
        ("3", [3]),  # no label "3": an index
        ("7", [4]),  # a label that looks like an index is the label
        (top(3), [2, 1, 0]),
        (top(99), [2, 1, 0, 3, 4]),
        ("top(2)", [2, 1]),
        ("top2", [2, 1]),
        ([1, "lion", 1], [1, 2]),
        ((0, 3), [0, 3]),
        (range(2), [0, 1]),
    ],
)
def test_classes_are_found(choice, expected):
    assert choose(choice) == expected


@pytest.mark.parametrize("choice", [5, -1, [0, 5], "5", "-1"])
def test_an_index_out_of_range_names_the_range(choice):
    with pytest.raises(ClassNotFound, match="classes 0 to 4"):
        choose(choice)


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(ClassNotFound) as caught:
        choose("tinka tinca")
    assert caught.value.nearest == ("tench, Tinca tinca",)


def test_a_label_of_several_classes_names_their_indices():
    with pytest.raises(ClassNotFound, match="1, 3"):
        choose("crane")


def test_a_label_for_a_model_without_labels_asks_for_the_index():
    with pytest.raises(ClassNotFound, match="no labels"):
        choose_classes("lion", SCORES, None)


@pytest.mark.parametrize("choice", [1.5, [], True, [None], object(), b"lion"[:0]])
def test_what_names_no_class_is_refused(choice):
    with pytest.raises(InvalidArgument):
        choose(choice)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_top_takes_a_count(count):
    with pytest.raises(InvalidArgument):
        top(count)


def test_classes_without_labels_have_a_name_all_the_same():
    assert label_of(3, None) == "class 3"
    assert label_of(9, ["only one"]) == "class 9"
