import pytest

from data.registry import annotation_path


def test_annotation_files(tmp_path):
    assert annotation_path("anno", "val").as_posix() == "anno/val_videoxum.json"
    files = dict(val="v.json", test=str(tmp_path / "t.json"))
    for dataset in ("videoxum", "instruct_v2xum", "own"):
        assert annotation_path("anno", "val", dataset, files).as_posix() == "anno/v.json"
        assert annotation_path("anno", "test", dataset, files) == tmp_path / "t.json"
    assert annotation_path("anno", "train", "videoxum", files).as_posix() == "anno/train_videoxum.json"


def test_own_data_is_json_or_json_lines(tmp_path):
    assert annotation_path(tmp_path, "val", "own") == tmp_path / "val.jsonl"
    (tmp_path / "val.json").touch()
    assert annotation_path(tmp_path, "val", "own") == tmp_path / "val.json"
    (tmp_path / "val.jsonl").touch()
    assert annotation_path(tmp_path, "val", "own") == tmp_path / "val.jsonl"


def test_files_of_instruct_v2xum_have_to_be_named():
    with pytest.raises(ValueError) as caught:
        annotation_path("anno", "val", "instruct_v2xum", dict(train="x.json"))
    assert str(caught.value) == (
        "ann_files: found no file of the split val, expected one, because instruct_v2xum has no fixed file names: "
        "--ann_files val=FILE, relative to ann_root"
    )
