import csv
import io
import json
import re

import numpy as np
import pytest
from scipy import stats

from data.registry import load_annotations
from engine.config import Config
from engine.predictions import Prediction
from engine.scoring import score_predictions, write_scores
from metrics.registry import PAPER_METRICS
from report import compare
from report.runs import published_rows, read_run
from report.tables import render_table

NAMES = ("F1", "Kendall", "Spearman")


@pytest.fixture
def score_run(mini_root, tmp_path):
    """Return a function that writes the scores of a run whose saliency is the annotators' mean plus noise."""
    records = load_annotations(mini_root / "anno/test_videoxum.json")

    def score(name, noise, noise_seed, trained_with=None, processes=1, vt_clip_sha256=None, **settings):
        rng = np.random.default_rng(noise_seed)
        saliency = [record.vsum_onehot.mean(0) + noise * rng.random(record.num_frames) for record in records]
        rows = [
            Prediction(video_id=record.video_id, saliency=row_saliency.tolist())
            for record, row_saliency in zip(records, saliency)
        ]
        results, scores = score_predictions(rows, records)
        (tmp_path / name).mkdir()
        config = Config(output_dir=str(tmp_path / name), **settings).as_dict()
        results |= dict(config=config, trained_with=trained_with, processes=processes, vt_clip_sha256=vt_clip_sha256)
        write_scores(tmp_path / name, "test", results, scores)
        return tmp_path / name

    return score


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes the files of a run with the given scores per video."""

    def write(name, scores, baselines=None, num_videos=None, subset=None, video_ids=None, **settings):
        (tmp_path / name).mkdir()
        (count,) = {len(values) for values in scores.values()}
        results = dict(
            metrics={metric: float(np.mean(values)) for metric, values in scores.items()},
            baselines=baselines or {},
            num_videos=dict(expected=num_videos or count, scored=count),
            config=Config(**dict(model="vtsum_blip_tt_ca") | settings).as_dict(),
            subset=subset,
        )
        rows = [dict(zip(scores, map(float, values))) for values in zip(*scores.values())]
        ids = video_ids or [f"v{n}" for n in range(count)]
        write_scores(tmp_path / name, "test", results, [dict(video_id=v) | row for v, row in zip(ids, rows)])
        return tmp_path / name

    return write


def run_compare(capsys, *argv):
    compare.main([*map(str, argv)])
    return capsys.readouterr().out


def test_seeds_are_grouped_and_differences_computed(score_run, capsys):
    model = dict(model="vtsum_blip_tt_ca")
    good = [score_run(f"good{seed}", 0.1, seed, seed=seed, kernel_size=5, **model) for seed in (1, 2, 3)]
    bad = score_run("bad", 5.0, 4, seed=1, kernel_size=9, num_beams=1, **model)
    same = score_run("same", 0.1, 1, seed=9, kernel_size=9, num_beams=1, num_workers=7, **model)
    out = run_compare(capsys, *good, bad, same, "--format", "csv", "--metrics", *NAMES)
    rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
    assert list(rows)[:4] == [*published_rows("test"), "random", "human"]
    assert rows["VTSUM-BLIP (TT+CA), published"]["F1"] == "23.5"
    assert rows["VTSUM-BLIP (TT), published"]["Kendall"] == "0.176"
    runs = [read_run(folder) for folder in good]
    values = [100 * run.metrics["F1"] for run in runs]
    row = rows[f"{good[0]} (and 2 more seeds)"]
    assert row["F1"] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert (row["kernel_size"], row["num_beams"]) == ("5", "3")
    # `bad` and `same` differ only in their seed and in settings that do not affect scores, so they are one row.
    row = rows[f"{bad} (and 1 more seed)"]
    assert (row["kernel_size"], row["num_beams"]) == ("9", "1") and "num_workers" not in row
    assert rows["random"]["Kendall"] == f"{runs[0].baselines['random']['Kendall']:.3f}"
    scores = [read_run(folder).scores["F1"] for folder in (bad, same)]
    differences = np.mean(scores, 0) - np.mean([run.scores["F1"] for run in runs], 0)
    assert row["F1 difference"] == f"{100 * differences.mean():+.1f}"
    assert float(row["F1 low"]) < float(row["F1 high"])


def test_differences_are_paired_and_marked_if_significant(score_run, capsys, monkeypatch):
    a, b, c = score_run("a", 0.1, 1), score_run("b", 5.0, 2, kernel_size=3), score_run("c", 0.1, 3, kernel_size=7)
    groups = compare.group_by_seed([read_run(folder) for folder in (a, b, c)])
    compared = compare.compare_groups(groups, groups[0], NAMES, 2000, 0)
    assert [group.name for group, _ in compared] == [str(b), str(c)]
    first, second = read_run(a), read_run(b)
    for name, (mean, low, high) in compared[0][1].items():
        pairs = second.scores[name] - first.scores[name]
        assert mean == pytest.approx(pairs.mean()) == pytest.approx(second.metrics[name] - first.metrics[name])
        assert low < mean < high < 0  # much worse
        width = 2 * 1.96 * pairs.std() / np.sqrt(len(pairs))
        assert high - low == pytest.approx(width, rel=0.2)
    low, high = compared[1][1]["F1"][1:]
    assert low < 0 < high  # the same amount of noise
    monkeypatch.setattr(compare, "MIN_VIDEOS", 7)
    out = run_compare(capsys, a, b, c, "--metrics", *NAMES)
    marked = {line.split()[0]: line.count("*") for line in out.splitlines() if line.startswith(str(a.parent))}
    assert "* significant: 0 is outside the interval" in out and marked[str(b)] == 3
    assert f"from {b}/../b, over 7 videos" in run_compare(capsys, a, f"{b}/../b", b, "--against", f"{b}/")
    monkeypatch.undo()
    out = run_compare(capsys, a, b)
    assert "With fewer than 20 videos" in out and "*" not in out  # too few videos
    latex = run_compare(capsys, a, b, "--format", "latex")
    assert all(line.startswith(("%", "\\")) or line.endswith("\\\\") or not line for line in latex.splitlines())


def test_bootstrap_intervals():
    """Percentiles of resampled means; all columns are resampled with the same videos."""
    rng = np.random.default_rng(0)
    differences = rng.gamma(2.0, size=(60, 2)) - [2.0, 1.5]
    low, high = compare.bootstrap_interval(differences, 20_000, 0)
    means = differences[rng.integers(60, size=(20_000, 60))].mean(axis=1)
    assert np.array([low, high]) == pytest.approx(np.quantile(means, [0.025, 0.975], axis=0), abs=0.015)
    twice, _ = compare.bootstrap_interval(differences[:, [0, 0]], 20_000, 0)
    assert np.array_equal(twice, low[[0, 0]])
    for N in (1, 5):
        assert np.array_equal(compare.bootstrap_interval(np.ones((N, 1)), 100, 0), np.ones((2, 1)))


def simulate_scores(rng, mean, seeds, video_effects, seed_deviation=0.02, residual_deviation=0.05):
    """Draw scores (S, N) as mean + effect of the video + effect of the seed + residual."""
    residuals = residual_deviation * rng.standard_normal((seeds, len(video_effects)))
    return mean + video_effects + seed_deviation * rng.standard_normal((seeds, 1)) + residuals


@pytest.mark.parametrize(
    ("seeds", "reference_seeds", "N"),
    [(2, 2, 60), (3, 3, 200), (4, 1, 100), (1, 5, 100), (2, 1, 100)],
)
def test_interval_with_several_seeds_covers_the_difference(seeds, reference_seeds, N):
    """In about 95% of 400 simulated comparisons; the bootstrap over videos in less than half."""
    rng, covered, covered_by_bootstrap, repetitions = np.random.default_rng(0), 0, 0, 400
    for _ in range(repetitions):
        video_effects = 0.2 * rng.standard_normal(N)
        scores = simulate_scores(rng, 0.71, seeds, video_effects)
        reference_scores = simulate_scores(rng, 0.70, reference_seeds, video_effects)
        low, high = compare.seed_interval(scores, reference_scores)
        covered += low <= 0.01 <= high
        pairs = (scores.mean(0) - reference_scores.mean(0))[:, None]
        low, high = compare.bootstrap_interval(pairs, 300, 0)
        covered_by_bootstrap += low[0] <= 0.01 <= high[0]
    assert 0.94 <= covered / repetitions <= 0.99
    assert covered_by_bootstrap / repetitions < 0.5


def test_interval_with_several_seeds():
    scores, reference_scores = np.array([[0.5, 0.7, 0.6], [0.7, 0.9, 0.5]]), np.array([[0.4, 0.5, 0.3]])
    low, high = compare.seed_interval(scores, reference_scores)
    # Differences 0.2, 0.3, 0.25: s_d² = 0.0025. Means of the seeds 0.6, 0.7: s_p² = 0.005, with one degree of freedom.
    var_videos, var_seeds = 0.0025 / 3, 0.005 * (1 / 2 + 1)
    half_width = np.sqrt(stats.t.ppf(0.975, 2) ** 2 * var_videos + stats.t.ppf(0.975, 1) ** 2 * var_seeds)
    assert (low, high) == pytest.approx((0.25 - half_width, 0.25 + half_width))
    assert compare.seed_interval(np.ones((2, 1)), np.zeros((2, 1))) == (1.0, 1.0)


def test_star_of_rows_with_several_seeds(write_run, capsys):
    """Few seeds that vary as much as the rows differ: no star, although the bootstrap over videos excludes 0."""
    rng, N = np.random.default_rng(0), 200
    video_effects = 0.1 * rng.standard_normal(N)
    video_effects -= video_effects.mean()

    def write_runs(kernel_size, means):
        residuals = 0.01 * rng.standard_normal((len(means), N))
        values = np.array(means)[:, None] + video_effects + residuals - residuals.mean(axis=1, keepdims=True)
        return [
            write_run(f"kernel_{kernel_size}_{seed}", dict(Kendall=row), seed=seed, kernel_size=kernel_size)
            for seed, row in enumerate(values)
        ]

    few = write_runs(3, [0.6963, 0.6977]) + write_runs(9, [0.6927, 0.7153])
    out = run_compare(capsys, *few)
    assert "0.697 ± 0.001" in out and "0.704 ± 0.016" in out and "+0.007 [" in out
    assert "]*" not in out and "intervals and stars cover the sampling of videos and of" in out
    means = [np.mean([read_run(folder).scores["Kendall"] for folder in pair], axis=0) for pair in (few[:2], few[2:])]
    low, _ = compare.bootstrap_interval((means[1] - means[0])[:, None], 1000, 0)
    assert low[0] > 0
    out = run_compare(capsys, few[0], few[3])
    assert "]*" in out and "of the videos alone (bootstrap)" in out and "cover the sampling" not in out
    many = write_runs(5, 0.690 + 0.002 * np.arange(6)) + write_runs(7, 0.720 + 0.002 * np.arange(6))
    assert "]*" in run_compare(capsys, *many)
    out = run_compare(capsys, *few[:2], few[3], many[0])
    assert "cover the sampling of videos and of" in out and "alone" not in out  # the reference has two seeds
    out = run_compare(capsys, few[3], many[0], *few[:2])
    assert "cover the sampling of videos and of" in out and "of the videos alone" in out


def test_other_systems_have_no_settings(write_run, capsys):
    """Results of `python -m metrics` have no configuration; it is not taken for the defaults."""
    a, b = write_run("a", dict(F1=[0.1, 0.2]), kernel_size=3), write_run("b", dict(F1=[0.2, 0.2]), kernel_size=9)
    other = edit_results(write_run("other", dict(F1=[0.3, 0.2])), config=None)
    assert (read_run(other).settings, read_run(other).seed) == ({}, None)
    for folders, names in (((a, b, other), ["kernel_size"]), ((a, other), []), ((other, a), [])):
        out = run_compare(capsys, *folders, "--format", "csv", "--metrics", "F1")
        rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
        header = list(rows[str(other)])
        assert header[1 : header.index("F1")] == names and not any(rows[str(other)][name] for name in names)


def edit_results(folder, **changes):
    path = folder / "results_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_clip_metrics_that_some_runs_lack(write_run, capsys):
    """Only runs with CLIP metrics have to agree in the encoder; the cells of the others are empty."""

    def write(name, encoder="", **settings):
        scores = dict(F1=[0.1, 0.2]) | (dict(VT_CLIPScore=[0.3, 0.4]) if encoder else {})
        folder = write_run(name, scores, **settings)
        changes = dict(clip_encoder=dict(frames_weights_sha256=encoder), vt_clip_sha256=encoder) if encoder else {}
        return edit_results(folder, **changes)

    first, same = write("first", "1" * 64), write("same", "1" * 64, seed=1, kernel_size=3)
    without, no_settings = write("without", kernel_size=9), edit_results(write("no_settings"), config=None)
    flags = ("--format", "csv", "--metrics", "F1", "VT_CLIPScore")
    for folders in ((first, no_settings), (no_settings, first), (first, same, without, no_settings)):
        out = run_compare(capsys, *folders, *flags)
        rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
        assert rows[str(first)]["VT_CLIPScore"] == "35.0" and rows[str(no_settings)]["VT_CLIPScore"] == ""
        assert "omitted" not in run_compare(capsys, *folders, *flags[2:])
        assert not {"F_CLIP encoder", "VT-CLIP"} & rows[str(first)].keys()
    assert rows[str(without)]["VT_CLIPScore"] == "" and rows[str(without)]["kernel_size"] == "9"
    other = write("other", "2" * 64)
    header = run_compare(capsys, first, without, other, *flags).splitlines()[0].split(",")
    assert {"F_CLIP encoder", "VT-CLIP"} <= {*header} and "VT_CLIPScore" not in header
    out = run_compare(capsys, first, without, other, *flags[2:])
    assert "VT_CLIPScore: omitted, the runs were scored with features of different encoders." in out


def test_settings_without_effect_are_no_difference(write_run, capsys):
    """`kernel_size` is of the context aggregation, others of one caption decoder; unused ones have an empty cell."""
    scores, tt = dict(F1=[0.1, 0.2]), dict(model="vtsum_blip_tt")
    causal_lm = dict(decoder="causal_lm", decoder_path="x")
    folders = [
        write_run("tt_ca", scores, kernel_size=9),
        write_run("tt_ca_5", scores, kernel_size=5),
        write_run("tt", scores, **tt, kernel_size=5, decoder_train="all"),
        write_run("tt_seed", scores, **tt, kernel_size=7, seed=1, decoder_lora_rank=4),
        write_run("lora", scores, **tt, **causal_lm, decoder_train="lora", decoder_lora_rank=4, tokenizer="a"),
        write_run("projector", scores, **tt, **causal_lm, decoder_lora_rank=8, tokenizer="b"),
        write_run("projector_seed", scores, **tt, **causal_lm, decoder_lora_rank=9, seed=1),
    ]
    tt_group, projector_group = f"{folders[2]} (and 1 more seed)", f"{folders[5]} (and 1 more seed)"
    out = run_compare(capsys, *folders, "--format", "csv", "--metrics", "F1")
    rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
    header = out.splitlines()[0].split(",")
    assert header[1 : header.index("F1")] == ["model", "kernel_size", "decoder", "decoder_train"]
    labels = [str(folders[0]), str(folders[1]), tt_group, str(folders[4]), projector_group]
    assert [rows[label]["kernel_size"] for label in labels] == ["9", "5", "", "", ""]
    assert [rows[label]["decoder_train"] for label in labels] == ["", "", "", "lora", "projector"]
    out = run_compare(capsys, folders[0], folders[2], "--format", "csv", "--metrics", "F1")
    assert out.startswith(",model,F1,")


def test_f1_relative_to_random(write_run, capsys):
    baselines = dict(random=dict(F1=0.1, Kendall=0.0), human=dict(F1=0.4, Kendall=0.5), middle=dict(F1=0.12))
    scores = [dict(F1=np.array([0.2, 0.3]) + shift, Kendall=np.array([0.1, 0.2])) for shift in (0.0, 0.041)]
    folders = [write_run(f"run{seed}", row, baselines, seed=seed) for seed, row in enumerate(scores)]
    out = run_compare(capsys, *folders, "--format", "csv", "--metrics", "F1", "Kendall")
    rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
    assert {label: row["F1/random"] for label, row in rows.items()} == {
        "VTSUM-BLIP (TT), published": "",
        "VTSUM-BLIP (TT+CA), published": "",
        "random": "1.00",
        "human": "4.00",
        "middle": "1.20",
        f"{folders[0]} (and 1 more seed)": "2.71 ± 0.29",
    }
    assert rows["middle"]["Kendall"] == ""
    for table_format in ("table", "markdown", "latex"):
        assert "F1/random" in run_compare(capsys, folders[0], "--format", table_format)
    assert "F1/random" not in run_compare(capsys, folders[0], "--metrics", "Kendall")
    assert "F1/random" not in run_compare(capsys, write_run("no_baselines", scores[0]))
    as_large_as_videoxum = write_run("large", scores[0], baselines, num_videos=4000)
    lines = run_compare(capsys, as_large_as_videoxum, "--metrics", "F1").splitlines()
    assert lines[1].split()[-2:] == ["22.4", "2.24"]


def test_published_rows_are_comparable_for_the_complete_videoxum_only(write_run, tmp_path, capsys):
    """The dataset is known by name, also of results without configuration; earlier results do not have the name."""
    scores, size = dict(F1=[0.2, 0.3]), dict(num_videos=4000)
    folders = {
        "own": write_run("own", scores, **size, dataset="own"),
        "v2xum": write_run("v2xum", scores, **size, dataset="instruct_v2xum"),
        "part": write_run("part", scores, num_videos=3999),
        "subset": write_run("subset", scores, **size, subset=dict(file="a.txt", sha256="0", num_videos=4000)),
        **{name: write_run(name, scores, **size) for name in ("complete", "earlier", "scored", "scored_own", "bad")},
    }
    for name, dataset in dict(earlier=None, scored="videoxum", scored_own="own", bad="other").items():
        path = folders[name] / "results_test.json"
        results = json.loads(path.read_text())
        del results["config"]["dataset"]
        if dataset is not None:
            results |= dict(config=None, dataset=dataset)
        path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="bad/results_test.json: dataset: found 'other', expected one of videoxum,"):
        read_run(folders.pop("bad"))
    for name, folder in folders.items():
        is_complete = "not of these videos" not in run_compare(capsys, folder)
        assert is_complete == (name in ("complete", "earlier", "scored")), name


def test_baseline_rows_of_captions(write_run, capsys):
    """Each row once, in the files' order; those of shuffled captions for each row of runs."""
    scores = dict(F1=[0.2, 0.3], CIDEr=[0.1, 0.3])
    keyframe_rows = dict(random=dict(F1=0.1), human=dict(F1=0.4), uniform=dict(F1=0.15))
    caption_rows = [dict(shuffled=dict(CIDEr=value), constant=dict(CIDEr=0.07)) for value in (0.05, 0.09, 0.02)]
    folders = [
        write_run("a", scores, keyframe_rows | caption_rows[0], seed=0),
        write_run("b", scores, keyframe_rows | caption_rows[1], seed=1),
        write_run("v2t", dict(CIDEr=scores["CIDEr"]), caption_rows[2], task="v2t"),
        write_run("v2v", dict(F1=scores["F1"]), keyframe_rows, task="v2v"),
    ]
    out = run_compare(capsys, *folders[::-1], "--against", folders[0], "--format", "csv", "--metrics", "F1", "CIDEr")
    rows = {row[""]: row for row in csv.DictReader(io.StringIO(out))}
    v2v, v2t, group = str(folders[3]), str(folders[2]), f"{folders[1]} (and 1 more seed)"
    assert list(rows)[2:] == [
        "random", "human", "uniform", "constant", v2v, v2t, f"{v2t}, shuffled captions", group,
        f"{group}, shuffled captions",
    ]  # fmt: skip
    assert rows[f"{group}, shuffled captions"]["CIDEr"] == "7.0 ± 2.8"
    assert rows[f"{v2t}, shuffled captions"]["CIDEr"] == "2.0" and rows[f"{v2t}, shuffled captions"]["F1"] == ""
    assert rows["constant"]["CIDEr"] == "7.0" and rows["uniform"]["CIDEr"] == ""
    assert rows[v2v]["CIDEr difference"] == "" and rows[f"{group}, shuffled captions"]["CIDEr difference"] == ""
    other = write_run("other", scores, keyframe_rows | dict(constant=dict(CIDEr=0.08)))
    with pytest.raises(ValueError, match="other: baselines: found other values than in the first run"):
        run_compare(capsys, *folders, other)


def test_runs_of_different_subsets_raise(write_run, capsys):
    def subset(digit, count):
        return dict(file="ids.txt", sha256=64 * digit, num_videos=count)

    complete = write_run("complete", dict(F1=[0.1, 0.2, 0.3]))
    first = write_run("first", dict(F1=[0.1, 0.2]), subset=subset("1", 2))
    second = write_run("second", dict(F1=[0.1, 0.2]), subset=subset("2", 2), video_ids=["v0", "v2"])
    same_videos = write_run("same", dict(F1=[0.1, 0.2, 0.3]), subset=subset("3", 3))
    assert read_run(first).results.subset.sha256 == "1" * 64 and read_run(complete).results.subset is None
    for folders, message in (
        (
            (complete, first),
            "first: subset: found 2 videos of ids.txt .SHA-256 111111111111…., expected all videos, as in .*complete; ",
        ),
        (
            (first, complete),
            "complete: subset: found all videos, expected 2 videos of ids.txt .SHA-256 111111111111…., as in .*first; ",
        ),
        (
            (first, second),
            "second: subset: found 2 videos of .* .SHA-256 2{12}…., expected 2 videos of .* .SHA-256 1{12}…., as in ",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run_compare(capsys, *folders)
    run_compare(capsys, complete, same_videos)
    results = json.loads((first / "results_test.json").read_text())
    (first / "results_test.json").write_text(json.dumps(results | dict(subset=dict(file="ids.txt", num_videos=2))))
    with pytest.raises(ValueError, match="results_test.json: results: subset: sha256: missing"):
        read_run(first)


def test_training_settings_identify_evaluations_of_a_checkpoint(score_run):
    """Evaluations of two seeds' checkpoints are one row, with the generation settings of the evaluation."""
    trained = [Config(seed=seed, kernel_size=7, num_beams=4).as_dict() for seed in (1, 2)]
    folders = [
        score_run(f"eval{i}", 0.1, i, trained_with=config, pretrained_model=f"runs/{i}/checkpoint.pth", num_beams=5)
        for i, config in enumerate(trained)
    ]
    (group,) = compare.group_by_seed([read_run(folder) for folder in folders])
    settings = group.runs[0].settings
    assert (settings["num_beams"], settings["pretrained_model"]) == (5, "")
    # The kernel size of the evaluation is used, and that of the training is shown.
    assert (settings["kernel_size"], settings["kernel_size (training)"]) == (5, 7)


def test_settings_of_the_training_have_an_effect_without_one_in_the_scoring(score_run):
    """A TT+CA checkpoint that is scored as TT: only the kernel size of its training matters."""
    trained = [Config(model="vtsum_blip_tt_ca", kernel_size=size, seed=size).as_dict() for size in (7, 9)]
    folders = [score_run(str(i), 0.1, i, trained_with=config) for i, config in enumerate(trained)]
    groups = compare.group_by_seed([read_run(folder) for folder in folders])
    assert compare.differing_settings(groups) == ["kernel_size (training)"]


@pytest.mark.parametrize(
    "changes",
    [
        dict(video_embeddings_root="elsewhere"),
        dict(pretrained_model="other.pth"),
        dict(trained_with=Config(pretrained_model="other.pth").as_dict()),
        dict(model="vtsum_blip_tt_ca", trained_with=Config().as_dict()),
        dict(processes=4),
        dict(vt_clip_sha256="0" * 64),
    ],
)
def test_runs_that_differ_beyond_the_seed_are_separate_rows(score_run, changes):
    first, second = score_run("a", 0.1, 1, seed=1), score_run("b", 0.1, 2, **({"seed": 2} | changes))
    assert len(compare.group_by_seed([read_run(first), read_run(second)])) == 2


def test_run_without_saliency_keeps_the_baseline_rows(score_run, capsys):
    without_saliency, complete = score_run("partial", 0.1, 1, seed=1), score_run("a", 0.1, 1, seed=2)
    results = json.loads((without_saliency / "results_test.json").read_text())
    removed = {name: results["metrics"].pop(name) for name in list(results["metrics"]) if name != "F1"}
    assert removed
    (without_saliency / "results_test.json").write_text(json.dumps(results | dict(baselines={})))
    assert "human" in run_compare(capsys, without_saliency, complete)


def test_table_formats():
    header, rows = ["", "tt_depth", "F1"], [["a_b|c", "1", "22.4 ± 0.1"], ["d & e", "2", ""]]
    assert render_table(header, rows, "csv") == ",tt_depth,F1\na_b|c,1,22.4 ± 0.1\nd & e,2,\n"
    lines = render_table(header, rows, "table", left=2).splitlines()
    assert re.fullmatch("a_b[|]c  1 +22.4 ± 0.1", lines[1]) and re.fullmatch(" +tt_depth +F1", lines[0])
    lines = render_table(header, rows, "markdown", left=2).splitlines()
    assert re.fullmatch(r"\|:-+\|:-+\|-+:\|", lines[1]) and lines[2] == r"| a_b\|c | 1          | 22.4 ± 0.1 |"
    latex = render_table(header, rows, "latex")
    assert re.search(r"a\\_b\|c +& +1 & 22.4 \$\\pm\$ 0.1 \\\\", latex) and r"d \& e" in latex
    assert latex.startswith("\\begin{tabular}{lrr}\n\\toprule\n") and "tt\\_depth" in latex


def test_incomparable_runs_raise(score_run, tmp_path):
    a, b = score_run("a", 0.1, 1), score_run("b", 0.1, 2)
    with pytest.raises(FileNotFoundError, match=r"results_val.json: results: no such file; scored splits: test"):
        compare.main([str(a), "--split", "val"])
    with pytest.raises(FileNotFoundError, match="none: run: no such folder"):
        compare.main([str(tmp_path / "none")])
    with pytest.raises(ValueError, match="against: found .*b, expected one of the runs"):
        compare.main([str(a), "--against", str(b)])
    lines = (b / "scores_test.jsonl").read_text().splitlines()
    for damaged, message in (
        (lines[1:], "b: scores: found other videos than in the other runs, such as mini_test_"),
        ([*lines, lines[0]], "expected at least one video, and each once"),
        ([*lines, "{"], rf"line {len(lines) + 1}: not valid JSON"),
        ([*lines, '{"F1": 0.5}'], rf"line {len(lines) + 1}: video_id: missing"),
        ([*lines, json.dumps(dict(video_id="x", F1="0.5"))], "F1: found '0.5', expected a finite number"),
        ([*lines, json.dumps(dict(video_id="x", F1=0.5))], "video x: found other scores than in the first line"),
    ):
        (b / "scores_test.jsonl").write_text("\n".join(damaged))
        with pytest.raises(ValueError, match=message):
            compare.main([str(a), str(b)])
    results = json.loads((b / "results_test.json").read_text())
    results["baselines"]["human"]["F1"] += 0.01
    (b / "results_test.json").write_text(json.dumps(results))
    (b / "scores_test.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="b: baselines: found other values than in the first run: other annotations"):
        compare.main([str(a), str(b)])
    for damaged, message in (
        (
            dict(metrics=dict(F1="high")),
            "results_test.json: results: metrics: F1: found 'high', expected a finite number",
        ),
        (dict(metrics=dict(F1=float("nan"))), "metrics: F1: found nan, expected a finite number"),
        (dict(metrics={}), "metrics: found an object of 0, "),
        (dict(metrics=dict(SPICE=0.5)), "metrics: SPICE: .*expected one of F1, "),
        (dict(metrics=dict(CIDEr=0.5)), r"scores_test.jsonl: CIDEr: missing, but in results_test.json"),
        (dict(num_videos={}), "num_videos: expected: missing"),
        (dict(baselines=[]), "baselines: found a list of 0, expected an object"),
        (dict(config=[1]), "config: found a list of 1, expected an object"),
    ):
        (b / "results_test.json").write_text(json.dumps(results | damaged))
        with pytest.raises(ValueError, match=message):
            read_run(b)


def test_published_rows_exist_only_for_the_test_split():
    assert set(published_rows("test")) and not published_rows("val")
    assert all(set(row) == set(PAPER_METRICS) for row in published_rows("test").values())
