"""The catalogue has every metric once, and whatever is measured or shown is in it."""

from __future__ import annotations

import pytest

from ganinv.judging import measures
from ganinv.metrics import catalogue
from ganinv.metrics.catalogue import CATALOGUE, Metric
from ganinv.studies.capacity import curves
from tests.test_verdict import IMAGES, judge_stripes


def test_every_metric_of_the_catalogue_is_measured_and_nothing_else_is():
    assert CATALOGUE.keys() == measures.MEASURES.keys() | measures.SETS.keys()
    assert {*curves.SHOWN, *curves.DRAWN} <= CATALOGUE.keys()
    found = judge_stripes()
    assert {*found.summary, *found.sets, *found.absent} == CATALOGUE.keys()
    assert all(metric.words for metric in CATALOGUE.values())


@pytest.fixture
def brightness():
    metric = Metric(name="brightness", direction="higher", group=catalogue.PICTURE, words="mean grey value, -1 to 1")
    catalogue.add_metric(metric)
    yield metric
    del CATALOGUE["brightness"]
    measures.MEASURES.pop("brightness", None)


def test_a_new_metric_is_one_entry_and_one_function(brightness):
    with pytest.raises(ValueError, match="expected a measure of the metric brightness, got none"):
        judge_stripes()
    measures.measures("brightness")(lambda case: case.images.mean((1, 2, 3)))
    found = judge_stripes()
    assert [row["brightness"] for row in found.per_identity] == pytest.approx([IMAGES.mean().item()] * 2)


def test_two_of_one_name_and_none_of_a_name_are_refused(brightness):
    with pytest.raises(ValueError, match="expected a new metric, got a second brightness"):
        catalogue.add_metric(brightness)
    with pytest.raises(ValueError, match="expected one measure of the metric acc_at_1, got a second"):
        measures.measures("acc_at_1")(lambda case: case.images)
    with pytest.raises(ValueError, match="expected a metric among target_score_transformed, .*, got darkness"):
        measures.measures("darkness")(lambda case: case.images)
    with pytest.raises(ValueError, match="expected the direction higher or lower of the metric x, got 'up'"):
        Metric(name="x", direction="up", group="g")
