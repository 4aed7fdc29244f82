"""The benchmarks on small sizes: each compares the project's results with its peer's before it times them."""

import json

import pytest
import torch

from benchmarks import decoding, loading, report, scoring, training
from benchmarks.__main__ import RESULTS, main
from tests.conftest import GOLDEN

CPU = torch.device("cpu")
SMALL = dict(med_config=str(GOLDEN / "med_small.json"))


@pytest.mark.soak
def test_training_equals_its_peer():
    rows = training.run(CPU, batch_size=3, rounds=1, model_options=SMALL)
    assert [row["what"].split()[-1] for row in rows] == ["published", "scored"]
    assert all(row["project"] > 0 and row["ratio"] > 0 and row["of_limit"] > 0 for row in rows)
    assert len(training.run(CPU, batch_size=2, rounds=1, precision="bf16", model_options=SMALL)) == 2
    row, _ = training.padding()
    assert row["peer"] == pytest.approx(0.44, abs=0.02) and row["project"] < 0.03


def test_decoding_equals_its_peer_and_the_reference():
    (row,) = decoding.run(CPU, B=3, T=9, L=12, rounds=1, references=3, model_options=SMALL)
    assert row["check"] == "100% of 3 captions are transformers', 3 compared with the reference search"
    (row,) = decoding.test_split(CPU, count=5, batch_size=2, L=8, model_options=SMALL)
    assert row["check"].endswith("of the captions are those of float32")


def test_scores_and_samples_equal_their_peers():
    assert "within" in scoring.run(count=20)[0]["check"]
    assert len(loading.run(count=5, rounds=1)) == 2


def test_the_document_shows_the_results(tmp_path):
    text = report.DOCUMENT.read_text()
    for path in RESULTS.glob("*.json"):
        assert report.section(json.loads(path.read_text())) in text, "make bench writes the tables"
    copy = tmp_path / "performance.md"
    copy.write_text(text)
    report.update(RESULTS, copy)
    assert copy.read_text() == text
    with pytest.raises(ValueError, match="--only: found 'speed', expected some of padding, scoring"):
        main(["--only", "speed"])
