"""docs/own_data.md: its commands, on its records with 10, 3 and 1 annotators, and with small models."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from data.check import main as check
from data.own_data import segments_to_keyframes
from data.registry import load_annotations
from engine.predictions import read_predictions
from tests.conftest import ROOT
from tests.helpers.clips import constant_rate, write_clip
from tests.helpers.documented_commands import parse_command, run_main_of
from tests.helpers.documents import read_document
from tests.helpers.json_lines import write_json_lines

NUM_VIDEOS = dict(train=6, val=2, test=2)  # as on the page
NUM_ANNOTATORS = (10, 3, 1)


def read_record(task):
    """Read the page's record for a task."""
    section = read_document("own_data").split(f"\n### {task}\n")[1].split("\n### ")[0]
    (block,) = re.findall(r"^```json\n(.*?)^```", section, re.M | re.S)
    return json.loads(block)


def read_steps(first, last):
    """List the page's commands from one section to another, each with the lines of output to expect."""
    text = read_document("own_data").split(f"\n## {first}\n")[1].split(f"\n## {last}\n")[0]
    steps = []
    for language, block in re.findall(r"^```(bash|text)\n(.*?)^```", text, re.M | re.S):
        if language == "bash":
            steps += [(line, []) for line in block.splitlines()]
        else:
            steps[-1][1].extend(block.splitlines())
    return steps


def vary_annotators(record, number):
    """Give a record 10, 3 or 1 annotators, whose segments are those of its first one, moved by up to 3 seconds."""
    count = NUM_ANNOTATORS[number % len(NUM_ANNOTATORS)]
    rows = [[[start + i % 4, end + i % 4] for start, end in record["segments"][0]] for i in range(count)]
    return record | dict(segments=rows if count > 1 else rows[0])


def write_annotations(make_record):
    """Write the annotations of the page's ten videos: their records, of which `make_record` gives the n-th."""
    records, number = [], 0
    for split, count in NUM_VIDEOS.items():
        rows = [make_record(number + i) | dict(video_id=f"{split}_{i}") for i in range(count)]
        write_json_lines(Path(f"dataset/own/anno/{split}.jsonl"), rows)
        records, number = [*records, *rows], number + count
    return records


def mask_numbers(text):
    """Replace times, numbers and runs of spaces, which depend on models and machines."""
    text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", text, flags=re.M)
    return re.sub(r"-?\d+(\.\d+)?", "0", re.sub(r" +", " ", text))


@pytest.fixture
def own_data(mini_videos, untrained_checkpoint, tmp_path, monkeypatch):
    """Working directory with the weights at the paths of the configurations, and folders for data."""
    for name, source in (
        ("configs", ROOT / "configs"),
        ("outputs/blip/model_base_capfilt_large.pth", mini_videos / "frame_encoder.pth"),
        ("outputs/vt_clipscore/vt_clip.pth", mini_videos / "vt_clip.pth"),
        ("outputs/vtsum_tt_ca/vtsum_tt_ca.pth", untrained_checkpoint),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(source)
    for name in ("own/videos", "own/anno", "own/feat/blip", "new/videos"):
        (tmp_path / "dataset" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_command(mini_videos, capfd):
    """Return a function that runs a documented command with flags for small models, and returns its output."""
    small = ["--med_config", str(ROOT / "configs/med_config_mini.json"), "--tokenizer", str(mini_videos / "tokenizer")]
    small += ["--image_size", "64", "--max_text_length", "16", "--device", "cpu"]
    flags = dict(
        extract_features=["--image_size", "64", "--device", "cpu", "--num_workers", "0"],
        train_v2vt_sum=[*small, "--max_epoch", "2"],
        eval_v2vt_sum=small,
        summarize=small,
    )

    def run(line, *further_flags):
        name, argv = parse_command(line)
        capfd.readouterr()
        run_main_of(name, [*argv, *flags.get(name, ()), *further_flags])
        stdout, stderr = capfd.readouterr()
        return stderr + stdout  # messages precede the result

    return run


def test_commands_and_their_output(own_data, run_command):
    for record in write_annotations(lambda i: vary_annotators(read_record("v2vt"), i)):
        path = own_data / f"dataset/own/videos/{record['video_id']}.mp4"
        write_clip(path, constant_rate(5, round(5 * record["duration"])), last=Fraction(1, 5))
    for i in range(2):
        write_clip(own_data / f"dataset/new/videos/new_{i}.mp4", constant_rate(5, 30), last=Fraction(1, 5))

    steps = read_steps("Extract", "Without the released weights")
    assert len(steps) == 10 and sum(bool(expected) for _, expected in steps) == 7
    for line, expected in steps:
        output = run_command(line)
        if "data.check" in line:
            assert output == "\n".join(expected) + "\n"
        printed = iter(mask_numbers(output).splitlines())
        for text in map(mask_numbers, expected):  # whole lines, in this order
            pattern = re.escape(text.rstrip()).replace("CAPTION", ".*")
            assert any(re.fullmatch(pattern, row.rstrip()) for row in printed), f"{line}: {text}: {output}"

    (folder,) = {path.parent for path in own_data.glob("outputs/own_data/report.html")}
    results = json.loads((folder / "results_test.json").read_text())
    assert {"F1", "Kendall", "CIDEr", "VT_CLIPScore"} <= results["metrics"].keys() and "human" in results["baselines"]
    assert (own_data / "summaries/test_0/summary.mp4").is_file()
    new = read_predictions("outputs/new/predictions_all.jsonl")
    assert [(p.video_id, len(p.saliency), bool(p.caption)) for p in new] == [("new_0", 6, True), ("new_1", 6, True)]
    scored = read_predictions(folder / "predictions_test.jsonl")
    alone = read_predictions("outputs/own_data_predictions/predictions_test.jsonl")
    assert [p.video_id for p in alone] == [p.video_id for p in scored]
    for prediction, other in zip(alone, scored):
        assert prediction.caption == other.caption and prediction.vt_clip_score is None
        assert prediction.saliency == pytest.approx(other.saliency, abs=1e-5)
    assert not list(own_data.glob("outputs/own_data_predictions/results_*"))


def test_commands_without_the_released_weights(own_data, mini_videos, untrained_checkpoint):
    for name, source in (("dataset/mini", mini_videos), ("outputs/mini/checkpoint.pth", untrained_checkpoint)):
        (own_data / name).parent.mkdir(exist_ok=True)
        (own_data / name).symlink_to(source)
    for record in write_annotations(lambda i: vary_annotators(read_record("v2vt"), i)):
        path = own_data / f"dataset/own/videos/{record['video_id']}.mp4"
        write_clip(path, constant_rate(2, round(2 * record["duration"])), last=Fraction(1, 2))
    for line, _ in read_steps("Without the released weights", "Not verified"):
        name, argv = parse_command(line)
        run_main_of(name, argv + (["--max_epoch", "1"] if name == "train_v2vt_sum" else []))
    assert (own_data / "outputs/own_mini/results_test.json").is_file()
    assert (own_data / "summaries/test_0/summary.mp4").is_file()


def test_records_have_the_labels_of_their_task(own_data):
    records = [vary_annotators(read_record("v2vt"), i) for i in range(3)]
    assert [len(segments_to_keyframes(r["segments"], 12)) for r in records[:2]] == [10, 3]
    write_json_lines(Path("all.jsonl"), [read_record(task) for task in ("v2vt", "v2v", "v2t")])
    beach, garden, kitchen = load_annotations("all.jsonl", dataset="own", needs=())
    assert kitchen.labels.shape == (3, 12) and kitchen.labels.sum(1).tolist() == [2, 2, 2]
    assert garden.labels.shape == (1, 10) and not garden.references
    assert beach.labels is None and len(beach.references) == 2


@pytest.mark.parametrize(("task", "metric"), [("v2v", "F1"), ("v2t", "CIDEr")])
def test_records_of_one_task(own_data, run_command, capfd, task, metric):
    """On random features, whose number of frames is that of the record's duration."""

    def make_record(number):
        record = read_record(task)
        if task == "v2v":
            record["vsum_onehot"] = [record["vsum_onehot"]] * NUM_ANNOTATORS[number % 3]
        return record

    rng = np.random.default_rng(0)
    for record in write_annotations(make_record):
        features = rng.standard_normal((int(-(-record["duration"] // 1)), 768), np.float32)
        np.savez(own_data / f"dataset/own/feat/blip/{record['video_id']}.npz", features=features)
    check(["dataset/own", "--dataset", "own", "--what", "anno", "blip_feat"])
    assert capfd.readouterr().out.endswith("complete\n")
    output = run_command("python train_v2vt_sum.py --config configs/own_data.yaml", "--task", task, "--splits", "test")
    assert f"task {task}" in output
    assert metric in json.loads((own_data / "outputs/own_data/results_test.json").read_text())["metrics"]


def test_batches_larger_than_the_data_set(own_data, run_command):
    write_annotations(lambda i: read_record("v2v"))
    for path in (f"{split}_{i}" for split, count in NUM_VIDEOS.items() for i in range(count)):
        np.savez(own_data / f"dataset/own/feat/blip/{path}.npz", features=np.ones((10, 768), np.float32))
    line = "python train_v2vt_sum.py --config configs/own_data.yaml --task v2v --splits test"
    with pytest.raises(ValueError, match="batch_size: found 7 on 1 processes, expected at most the 6 training videos"):
        run_command(line, "--batch_size", "7")
    assert "6 videos, 1 batches per epoch" in run_command(line, "--batch_size", "4")
    with pytest.raises(ValueError, match="predict_only: found true, expected false in training"):
        run_command(line, "--predict_only")
