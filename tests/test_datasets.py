"""Datasets by name, from the annotation files to reports: mini VideoXum in the formats of other datasets."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

import eval_v2vt_sum
import train_vt_clip
from data.check import main as check
from data.features import PackedFeatures
from data.mini.formats import main as write_formats
from data.mini.formats import read_mini, to_instruct_v2xum, to_own_data
from data.pack import main as pack
from data.registry import annotation_path, load_annotations
from engine.config import SPLITS
from metrics.__main__ import main as score
from report.__main__ import main as report
from report.card import main as write_card
from report.compare import main as compare
from tests.conftest import ROOT
from tests.helpers.json_lines import write_json_lines

FLAGS = ("--max_epoch", "1", "--splits", "test", "--max_text_length", "20", "--lambda_vsum", "10", "--init_lr", "1e-3")


def read_results(folder):
    return json.loads((folder / "results_test.json").read_text())


def read_log(folder):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]


@pytest.fixture
def write_own_data(mini_root, tmp_path):
    """Return a function that writes mini VideoXum with some fields of the format for own data: flags that select it."""

    def write(*fields):
        (tmp_path / "own/anno").mkdir(parents=True)
        for split in SPLITS:
            entries = [to_own_data(entry, *fields) for entry in read_mini(mini_root, split)]
            if split == "val":
                (tmp_path / "own/anno/val.json").write_text(json.dumps(entries))
            else:
                write_json_lines(tmp_path / f"own/anno/{split}.jsonl", entries)
        return ["--dataset", "own", "--ann_root", str(tmp_path / "own/anno")]

    return write


@pytest.fixture
def v2xum(mini_root, tmp_path):
    """Mini VideoXum in Instruct-V2Xum's format, with ids that begin with a minus sign, as some on YouTube."""
    root = tmp_path / "v2xum"
    for name in ("blip", "vt_clipscore"):
        (root / "feat" / name).mkdir(parents=True)
    (root / "anno").mkdir()
    for split in SPLITS:
        entries = read_mini(mini_root, split)
        for path in (path for entry in entries for path in mini_root.glob(f"feat/*/{entry['video_id']}.npz")):
            (root / "feat" / path.parent.name / f"-{path.name}").symlink_to(path)
        records = [to_instruct_v2xum(entry, f"-{entry['video_id']}") for entry in entries]
        (root / f"anno/v2xum_{split}.json").write_text(json.dumps(records))
    return root


@pytest.fixture
def v2xum_flags(v2xum):
    return [
        *("--ann_root", str(v2xum / "anno"), "--ann_files"),
        *(
            f"{split}={v2xum}/anno/v2xum_{split}.json" if split == "val" else f"{split}=v2xum_{split}.json"
            for split in SPLITS
        ),
        *("--video_embeddings_root", str(v2xum / "feat/blip"), "--clip_root", str(v2xum / "feat/vt_clipscore")),
    ]


def test_instruct_v2xum_is_trained_evaluated_and_reported(train, v2xum, v2xum_flags, mini_flags, tmp_path, capsys):
    """With its configuration, whose file names the flag replaces."""
    folder = train("run", *FLAGS, *v2xum_flags, config="datasets/instruct_v2xum.yaml")
    results = read_results(folder)
    assert results["num_videos"] == dict(expected=7, scored=7) and results["config"]["dataset"] == "instruct_v2xum"
    assert {"F1", "Kendall", "CIDEr", "VT_CLIPScore"} <= results["metrics"].keys()
    assert "human" not in results["baselines"] and "vsum_onehot" not in (folder / "train.log").read_text()

    eval_v2vt_sum.main(
        [
            *("--config", str(folder / "config.yaml"), "--output_dir", "evaluation"),  # it has the mapping of files
            *("--pretrained_model", str(folder / "checkpoint.pth")),
        ]
    )
    assert read_results(tmp_path / "evaluation")["metrics"] == pytest.approx(results["metrics"], abs=1e-6)

    annotations = str(v2xum / "anno/v2xum_test.json")
    score(
        [str(folder / "predictions_test.jsonl"), annotations, "--dataset", "instruct_v2xum", "--output_dir", "scored"]
    )
    scored = read_results(tmp_path / "scored")
    assert scored["dataset"] == "instruct_v2xum" and scored["metrics"]["CIDEr"] == results["metrics"]["CIDEr"]
    for run, flags in ((folder, []), (tmp_path / "scored", ["--annotations", annotations])):
        report([str(run), *flags, "--ids=-mini_test_003"])
        page = (run / "report.html").read_text()
        assert "-mini_test_003" in page and "They are not comparable" in page
    capsys.readouterr()
    compare([str(folder), str(tmp_path / "evaluation"), str(tmp_path / "scored")])
    assert "not of these videos" in capsys.readouterr().out
    write_card([str(folder)])
    card = ModelCard.load(folder / "README.md").data
    assert {(result.dataset_type, result.dataset_name) for result in card.eval_results} == {
        ("hhua2/Instruct-V2Xum", "Instruct-V2Xum")
    }
    assert card.datasets == ["hhua2/Instruct-V2Xum"]


def test_commands_without_configuration_read_instruct_v2xum(v2xum, tmp_path, capsys):
    files = [f"{split}=v2xum_{split}.json" for split in SPLITS]
    check([str(v2xum), "--dataset", "instruct_v2xum", "--ann_files", *files])
    out = capsys.readouterr().out
    assert out.endswith("complete\n") and "number: " not in out and "blip: 43 of 43 videos" in out
    assert f"{v2xum}/anno/v2xum_val.json: 3 videos, annotators per video: 1\n" in out
    check([str(v2xum), "--dataset", "instruct_v2xum", "--what", "anno", "--ann_files", files[2]])
    assert "v2xum_test.json: 7 videos" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        check([str(v2xum), "--dataset", "instruct_v2xum", "--ann_files", "val=none.json"])
    assert "none.json: annotations: no such file" in capsys.readouterr().out
    with pytest.raises(ValueError, match="ann_files: found no file of the split train, expected one"):
        check([str(v2xum), "--dataset", "instruct_v2xum"])
    with pytest.raises(ValueError, match="--ann_files: found 'tset', expected one of train, val, test"):
        check([str(v2xum), "--ann_files", "tset=x"])
    annotations = ["--annotations", str(v2xum / "anno/v2xum_val.json"), "--dataset", "instruct_v2xum"]
    pack(["--features", str(v2xum / "feat/blip"), "--out", str(tmp_path / "packed"), *annotations])
    assert len(PackedFeatures(tmp_path / "packed", "features").videos) == 3
    assert (tmp_path / "packed/v2xum_val.safetensors").is_file()


def test_settings_have_to_name_the_files_of_instruct_v2xum(train, v2xum, tmp_path):
    with pytest.raises(ValueError, match="ann_files: found no file of the split test, expected one"):
        train("run", *FLAGS, "--dataset", "instruct_v2xum", "--ann_files", "train=x.json")
    with pytest.raises(FileNotFoundError, match="train.json: annotations: no such file; set ann_root or ann_files"):
        train("run", *FLAGS, config="datasets/instruct_v2xum.yaml")
    assert not (tmp_path / "run").exists()


def test_own_data_is_written_with_a_record_per_line(mini_root, tmp_path, capsys):
    shutil.copytree(mini_root / "anno", tmp_path / "anno")
    write_formats([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: anno_own, anno_instruct_v2xum\n"
    for name, suffix in (("own", "jsonl"), ("instruct_v2xum", "json")):
        folder = tmp_path / f"anno_{name}"
        assert sorted(path.name for path in folder.iterdir()) == [f"{split}.{suffix}" for split in sorted(SPLITS)]
        files = {split: f"{split}.json" for split in SPLITS} if name == "instruct_v2xum" else None
        paths = [annotation_path(folder, split, name, files) for split in SPLITS]
        assert [len(load_annotations(path, dataset=name)) for path in paths] == [33, 3, 7]
    (tmp_path / "anno_own/val.json").write_text("[]")
    assert annotation_path(tmp_path / "anno_own", "val", "own").suffix == ".jsonl"
    lines = (tmp_path / "anno_own/val.jsonl").read_text().splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == [f"mini_val_00{i}" for i in range(3)]


def test_own_data_gives_the_numbers_of_videoxum(train, write_own_data, mini_root, tmp_path):
    """The same content in VideoXum's format."""
    template = ("--pretrained_model", "", "--log_freq", "10")  # as in the other configuration
    flags = (*FLAGS, *write_own_data("captions", "vsum_onehot"), *template)
    folder = train("own_run", *flags, config="own_data.yaml")
    anno = tmp_path / "videoxum"
    anno.mkdir()
    for split in SPLITS:
        entries = [entry | dict(references=[" ".join(entry.pop("tsum"))]) for entry in read_mini(mini_root, split)]
        (anno / f"{split}_videoxum.json").write_text(json.dumps(entries))
    videoxum = train("videoxum_run", *FLAGS, "--ann_root", str(anno), config="datasets/videoxum.yaml")
    assert read_log(folder) == read_log(videoxum)
    names = ("metrics", "baselines", "num_videos")
    assert [read_results(folder)[name] for name in names] == [read_results(videoxum)[name] for name in names]
    assert (folder / "scores_test.jsonl").read_bytes() == (videoxum / "scores_test.jsonl").read_bytes()
    assert (folder / "predictions_test.jsonl").read_bytes() == (videoxum / "predictions_test.jsonl").read_bytes()
    with pytest.raises(ValueError, match="a run with other settings: dataset .was 'own', is 'videoxum'."):
        train("own_run", *FLAGS, "--ann_root", str(anno), config="datasets/videoxum.yaml")


@pytest.mark.parametrize(
    ("task", "field", "metric", "other"), [("v2v", "segments", "F1", "CIDEr"), ("v2t", "captions", "CIDEr", "F1")]
)
def test_own_data_of_one_task(train, write_own_data, tmp_path, capsys, task, field, metric, other):
    flags = write_own_data(field)
    folder = train("run", *FLAGS, *flags, "--task", task)
    metrics = read_results(folder)["metrics"]
    assert metric in metrics and other not in metrics
    report([str(folder)])
    assert "mini_test_003" in (folder / "report.html").read_text()
    compare([str(folder)])
    write_card([str(folder)])
    card = ModelCard.load(folder / "README.md").data
    assert {result.dataset_name for result in card.eval_results} == {"[fill in]"} and card.datasets is None
    with pytest.raises(
        ValueError, match="train.jsonl: video mini_.*: (vsum_onehot|captions): missing, expected .*; the tasks"
    ):
        train("other", *FLAGS, *flags)
    capsys.readouterr()
    check([str(tmp_path / "own"), "--dataset", "own", "--what", "anno"])
    missing = "captions" if task == "v2v" else "key-frames"
    out = capsys.readouterr().out
    assert f"7 of 7 videos have no {missing}" in out and f"{tmp_path}/own/anno/val.json: 3 videos" in out


def test_vt_clip_is_trained_on_own_data(write_own_data, mini_root, tmp_path):
    argv = [*("--config", str(ROOT / "configs/vt_clip.yaml"), "--clip", str(mini_root / "vt_clip.pth"))]
    argv += ["--vision_root", str(mini_root / "feat/vt_clipscore"), "--device", "cpu", "--num_workers", "0"]
    argv += ["--batch_size", "8", "--max_epoch", "1", "--output_dir", str(tmp_path / "vt_clip")]
    train_vt_clip.main([*argv, *write_own_data("captions", "segments")])
    assert (tmp_path / "vt_clip/vt_clip.pth").is_file()
    assert "dataset: own" in (tmp_path / "vt_clip/config.yaml").read_text()
