import json

import numpy as np

from data.annotations import load_annotations
from data.features import load_features
from data.mini import vocabulary, write_mini
from utils.metrics.keyframes import human_baseline, random_baseline


def test_layout(mini_root):
    for split, count in dict(train=33, val=3, test=7).items():
        records = load_annotations(mini_root / f"anno/{split}_videoxum.json")
        assert len(records) == count
        for record in records:
            T = record.num_frames
            assert load_features(mini_root / "feat/blip", record.video_id, "features", 768).shape == (T, 768)
            assert load_features(mini_root / "feat/vt_clipscore", record.video_id, "vision", 512).shape == (T, 512)
            assert load_features(mini_root / "feat/vt_clipscore", record.video_id, "text", 512).shape == (1, 512)
            assert 0 < record.duration <= T
            assert 0.02 < record.vsum_onehot.mean() < 0.3


def test_the_same_seed_gives_the_same_data(mini_root, tmp_path):
    write_mini(tmp_path, counts=dict(train=33, val=3, test=7), ready_made=True)
    for path in sorted(mini_root.rglob("*.json")):
        assert path.read_bytes() == (tmp_path / path.relative_to(mini_root)).read_bytes()
    for path in sorted(mini_root.rglob("*.npz")):
        ours, again = np.load(path), np.load(tmp_path / path.relative_to(mini_root))
        assert all(np.array_equal(ours[name], again[name]) for name in ours.files)


def test_annotators_agree_but_not_perfectly(mini_root):
    keyframes = [np.array(e["vsum_onehot"]) for e in json.loads((mini_root / "anno/train_videoxum.json").read_text())]
    human, chance = human_baseline(keyframes), random_baseline(keyframes)
    assert 2 * chance["F1"] < human["F1"] < 0.8
    assert 0.2 < human["Kendall"] < 0.8


def test_vocabulary_has_no_doubles():
    tokens = vocabulary()
    assert len(tokens) == len(set(tokens)) == 254
    assert {"circle", "bounces", "finally", "then"} <= set(tokens)
