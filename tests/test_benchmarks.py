"""The benchmarks on small sizes: each compares the project's results with its peer's before it measures them."""

import pytest
import torch

from benchmarks import bf16, decoding, extraction, loading, machine, records, report, scoring, startup, training
from benchmarks.__main__ import RESULTS_FOLDER, main
from tests.conftest import GOLDEN
from utils.frame_transform import FrameTransform

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
    assert row.check == (
        "100% of 3 captions are transformers'; 3 of 3, the others included, are the reference search's in float64"
    )
    (row,) = decoding.benchmark_test_split(CPU, count=5, batch_size=2, L=8, med_config=SMALL_CONFIG)
    assert row.check.endswith("of the captions are those of float32")


def test_bf16_is_compared_with_fp32(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bf16, "has_bf16_instructions", lambda: True)
    monkeypatch.setattr(bf16, "MINI_CHECKPOINT", tmp_path / "none.pth")  # takes long
    rows = bf16.benchmark_bf16(batch_size=2, L=8, depth=1, rounds=1, med_config=SMALL_CONFIG)
    assert len(rows) == 4 and all(row.ratio > 0 and row.peer_name == "fp32" for row in rows)
    monkeypatch.undo()
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx512f avx512_bf16\n")
    assert machine.has_bf16_instructions(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n")
    assert not machine.has_bf16_instructions(tmp_path / "cpuinfo")
    monkeypatch.setattr(bf16, "has_bf16_instructions", lambda: False)
    assert bf16.benchmark_bf16() == [] and "bf16: not measured" in capsys.readouterr().out


def test_scores_and_samples_equal_their_peers():
    rows = scoring.benchmark_scoring(count=20)
    assert "within" in rows[0].check and rows[2].ratio > 0
    assert len(loading.benchmark_loading(count=5, rounds=1)) == 2


@pytest.mark.soak
def test_extraction_is_compared_with_its_encoder(mini_videos, monkeypatch):
    monkeypatch.setenv("VTSUM_CLIPS", str(mini_videos / "videos"))
    rows = extraction.benchmark_extraction(CPU, depth=1, num_frames=1, rounds=1)
    assert rows[0].measurement.startswith("extraction, fp32")
    assert all(row.ratio > 0 and row.check.startswith("the same features; decoding") for row in rows)
    monkeypatch.delenv("VTSUM_CLIPS")
    with extraction.benchmark_videos(2) as (description, paths):
        assert description == "a synthesized video, H.264, 640 x 360, 2 s"
        assert sum(map(len, extraction.decode_chunks(*paths, FrameTransform(32)))) == 2


@pytest.mark.soak
def test_start_up_is_measured():
    first_batch, help_text = startup.benchmark_startup(rounds=1)
    assert first_batch.project_value > help_text.project_value > 0


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
