"""The benchmarks on small sizes: each compares the project's results with its peer's before it measures them."""

import pytest
import torch

from benchmarks import bf16, decoding, loading, records, report, scoring, training
from benchmarks.__main__ import RESULTS_FOLDER, main
from tests.conftest import GOLDEN

CPU = torch.device("cpu")
SMALL_CONFIG = str(GOLDEN / "med_small.json")


@pytest.mark.soak
def test_training_equals_its_peer():
    rows = training.benchmark_training(CPU, batch_size=3, rounds=1, med_config=SMALL_CONFIG)
    assert [row.measurement.split()[-1] for row in rows] == ["published", "scored"]
    assert all(row.project_value > 0 and row.ratio > 0 and row.limit_fraction > 0 for row in rows)
    rows = training.benchmark_training(CPU, batch_size=2, rounds=1, precision="bf16", med_config=SMALL_CONFIG)
    assert len(rows) == 2
    row, _ = training.benchmark_padding()
    assert row.peer_value == pytest.approx(0.44, abs=0.02) and row.project_value < 0.03


def test_decoding_equals_its_peer_and_the_reference():
    (row,) = decoding.benchmark_decoding(CPU, B=3, T=9, L=12, rounds=1, references=3, med_config=SMALL_CONFIG)
    assert row.check == "100% of 3 captions are transformers', 3 compared with the reference search"
    (row,) = decoding.benchmark_test_split(CPU, count=5, batch_size=2, L=8, med_config=SMALL_CONFIG)
    assert row.check.endswith("of the captions are those of float32")


def test_bf16_is_compared_with_fp32(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bf16, "has_bf16_instructions", lambda: True)
    rows = bf16.benchmark_bf16(batch_size=2, L=8, depth=1, rounds=1, med_config=SMALL_CONFIG)
    assert len(rows) == 4 and all(row.ratio > 0 and row.peer_name == "fp32" for row in rows)
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx512f avx512_bf16\n")
    monkeypatch.undo()
    assert bf16.has_bf16_instructions(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n")
    assert not bf16.has_bf16_instructions(tmp_path / "cpuinfo")
    monkeypatch.setattr(bf16, "has_bf16_instructions", lambda: False)
    assert bf16.benchmark_bf16() == [] and "bf16: not measured" in capsys.readouterr().out


def test_scores_and_samples_equal_their_peers():
    assert "within" in scoring.benchmark_scoring(count=20)[0].check
    assert len(loading.benchmark_loading(count=5, rounds=1)) == 2


def test_the_document_shows_the_results(tmp_path):
    text = report.PERFORMANCE_DOCUMENT.read_text()
    for path in RESULTS_FOLDER.glob("*.json"):
        results = records.read_machine_results(path)
        assert report.format_machine_section(results) in text, "make bench writes the tables"
        records.write_machine_results(tmp_path / path.name, results)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    copy = tmp_path / "performance.md"
    copy.write_text(text)
    report.update_document(RESULTS_FOLDER, copy)
    assert copy.read_text() == text
    with pytest.raises(ValueError, match="--only: found 'speed', expected some of padding, scoring"):
        main(["--only", "speed"])
