"""Tests of measurements: stored once for the same inputs, repeated if a file is lost."""

import pandas as pd
import pytest

from experiments.reporting.provenance import single_source
from experiments.studies.measurement import Measurement, counted, measured_once


@pytest.fixture
def measure():
    """A function that measures and counts its calls."""

    def measure():
        measure.calls += 1
        frame = pd.DataFrame({"name": ["a", "b"], "value": [1 / 3, float("nan")]})
        return Measurement({"answer": 42}, {"rows": frame})

    measure.calls = 0
    return measure


def test_the_same_inputs_are_measured_once(tmp_path, measure):
    once = measured_once(tmp_path, ["x", 1], "make it", measure)
    again = measured_once(tmp_path, ["x", 1], "make it again", measure)
    assert measure.calls == 1
    assert once.facts == again.facts
    assert once.facts["answer"] == 42 and once.facts["command"] == "make it"
    pd.testing.assert_frame_equal(once.frames["rows"], again.frames["rows"], check_exact=True)
    assert once.frames["rows"]["value"][0] == 1 / 3
    measured_once(tmp_path, ["x", 2], "make it", measure)
    assert measure.calls == 2


@pytest.mark.parametrize(
    ("file", "damage"),
    [("facts.json", None), ("facts.json", "{"), ("rows.csv", None), ("rows.csv", "")],
)
def test_what_is_lost_or_damaged_is_measured_again(tmp_path, measure, file, damage):
    measured_once(tmp_path, 1, "make it", measure)
    (tmp_path / file).unlink()
    if damage is not None:
        (tmp_path / file).write_text(damage)
    assert measured_once(tmp_path, 1, "make it", measure).facts["answer"] == 42
    assert measure.calls == 2


def test_the_caption_says_where_and_by_which_command():
    facts = {
        "machine": {"cpu": "Some CPU", "gpu": None, "cores": 1},
        **{"torch": "2.0", "git": "abc", "date": "2030-01-02T03:04:05", "command": "make it"},
    }
    assert single_source(facts) == "Measured on Some CPU, 1 thread, torch 2.0: make it."
    facts["machine"] |= {"gpu": "Some GPU", "cores": 4}
    assert single_source(facts).startswith("Measured on Some GPU, 4 threads, ")


@pytest.mark.parametrize(("number", "words"), [(1, "1 run"), (2, "2 runs"), (1562, "1,562 runs")])
def test_nouns_are_counted(number, words):
    assert counted(number, "run") == words
