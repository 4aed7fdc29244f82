import dataclasses
import html
import json
import re
import shutil

import numpy as np
import pytest

from data.registry import load_annotations
from engine.config import Config
from engine.predictions import Prediction, read_predictions, write_predictions
from engine.scoring import score_predictions, write_scores
from metrics.keyframes import f1_per_annotator
from report import __main__ as command
from report import figures
from report.content import extract_curves, load_report_data
from tests.helpers.browser import open_page

ATTACK = "</script><img src=x onerror=alert(1)><b>&"


@pytest.fixture(scope="module")
def run_folder(mini_root, tmp_path_factory):
    """A scored run with a log; one video's caption and reference contain HTML that would run a script."""
    folder = tmp_path_factory.mktemp("runs") / "a <run>"
    (folder / "anno").mkdir(parents=True)
    entries = json.loads((mini_root / "anno/test_videoxum.json").read_text())
    entries[0]["tsum"][0] = ATTACK
    (folder / "anno/test_videoxum.json").write_text(json.dumps(entries))
    records, rng = load_annotations(folder / "anno/test_videoxum.json"), np.random.default_rng(0)
    predictions = []
    for i, record in enumerate(records):
        saliency = 3 * record.vsum_onehot.mean(0) - 1 + 0.2 * i * rng.random(record.num_frames)
        caption = f"{record.tsum[0]} then video{i} ends"
        predictions.append(
            Prediction(video_id=record.video_id, caption=caption, saliency=saliency.tolist(), vt_clip_score=0.1 * i)
        )
    results, scores = score_predictions(predictions, records)
    config = Config(ann_root=str(folder / "anno"), output_dir=str(folder), kernel_size=7).as_dict()
    write_predictions(folder, "test", predictions, records)
    write_scores(folder, "test", results | dict(config=config, versions=dict(torch="2")), scores)
    log = [
        dict(
            type="step", epoch=epoch, step=step, lr=1e-3 / (epoch + 1), loss=5.0 - epoch, loss_tsum=3.0, loss_vsum=None
        )
        for epoch in range(3)
        for step in (1, 3)
    ]
    log += [dict(type="evaluation", epoch=epoch, split="val", F1=0.1 * epoch, Kendall=0.2) for epoch in range(3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.fixture(scope="module")
def page_file(run_folder):
    command.main(
        [str(run_folder), "--best", "2", "--worst", "1", "--random", "0", "--ids", "mini_test_003", "mini_test_000"]
    )
    return run_folder / "report.html"


def test_report_in_a_browser(browser, run_folder, page_file):
    rows = [json.loads(line) for line in (run_folder / "scores_test.jsonl").read_text().splitlines()]
    scores = {row["video_id"]: row for row in rows}
    with open_page(browser, page_file.as_uri(), width=1200) as (page, requests, messages):
        assert page.title() == "a <run>, test · report"
        model = page.locator("#scores ~ div tr.model td").all_text_contents()
        results = json.loads((run_folder / "results_test.json").read_text())
        metrics = results["metrics"]
        assert model[:3] == [f"{100 * metrics['F1']:.1f}", f"{metrics['Kendall']:.3f}", f"{metrics['Spearman']:.3f}"]
        rows = page.locator("#scores ~ div").first.locator("tbody th").all_text_contents()
        published = ["VTSUM-BLIP (TT), published", "VTSUM-BLIP (TT+CA), published"]
        assert rows == ["this run", *results["baselines"], *published] and "human" in rows

        def read_column(column=0):
            return page.eval_on_selector_all(
                "#videos tbody tr", f"rows => rows.map(r => r.children[{column}].innerText)"
            )

        by_kendall = sorted(scores, key=lambda video_id: -scores[video_id]["Kendall"])
        assert read_column() == by_kendall
        assert read_column(3) == [f"{scores[video_id]['Kendall']:.3f}" for video_id in by_kendall]
        sections = page.locator("article h3").all_text_contents()
        assert set(sections) == {*by_kendall[:2], by_kendall[-1], "mini_test_003", "mini_test_000"}
        assert sections == [video_id for video_id in by_kendall if video_id in sections]

        page.get_by_role("button", name="CIDEr").click()
        by_cider = [scores[video_id]["CIDEr"] for video_id in read_column()]
        assert by_cider == sorted(by_cider, reverse=True)
        assert page.locator("th[aria-sort]").all_text_contents() == ["CIDEr"]
        page.get_by_role("button", name="CIDEr").click()
        assert [scores[video_id]["CIDEr"] for video_id in read_column()] == by_cider[::-1]
        assert page.locator("article h3").all_text_contents() == [
            video_id for video_id in read_column() if video_id in sections
        ]
        page.get_by_label("Sort by").select_option(label="video")
        assert read_column() == sorted(scores)

        page.get_by_label("Search ids and captions").fill("VIDEO2 ends")
        (match,) = read_column()
        assert page.get_by_role("status").inner_text() == f"1 of {len(scores)} videos"
        assert page.locator("article:visible").count() == (match in sections)
        page.get_by_label("Search ids and captions").fill("onerror")
        assert len(read_column()) == 1 and "<img src=x" in read_column(10)[0]  # text, not an element
        assert page.locator("img").count() == 0
        assert requests == [page_file.as_uri()] and not messages


def test_section_of_a_video_describes_its_timeline(browser, run_folder, page_file):
    records = {record.video_id: record for record in load_annotations(run_folder / "anno/test_videoxum.json")}
    predictions = {entry.video_id: entry for entry in read_predictions(run_folder / "predictions_test.jsonl")}
    record, prediction = records["mini_test_003"], predictions["mini_test_003"]
    (video,) = load_report_data(run_folder, best=0, worst=0, random=0, ids=["mini_test_003"]).videos
    assert np.array_equal(video.selected, select_top_frames(prediction.saliency))
    assert video.saliency == pytest.approx(1 / (1 + np.exp(-np.array(prediction.saliency))))
    with open_page(browser, page_file.as_uri()) as (page, _, _):
        article = page.locator("article[data-video=mini_test_003]")
        svg = article.get_by_role("img", name="Timeline of video mini_test_003, described below")
        texts = svg.locator("text").all_text_contents()
        assert {"events", "annotator", "selected", "annotators' mean", "model's saliency", "0:00"} <= set(texts)
        annotators = [str(number) for number in range(1, 11)]
        assert [text for text in texts if text in annotators][-10:] == annotators
        description = article.locator("p.faint").inner_text()
        spans = [
            f"{minutes}:{seconds:02}"
            for second in np.flatnonzero(video.selected)[:1]
            for minutes, seconds in [divmod(int(second), 60)]
        ]
        assert (
            f"The model selected {spans[0]}–" in description
            and f"({10 * record.vsum_onehot.mean(0).max():.0f} of 10)" in description
        )
        assert f"Events: 1: 0:{int(record.spans[0][0]):02}–" in description
        assert article.get_by_text(prediction.caption).is_visible()
        assert article.locator("ol li").all_text_contents() == list(record.tsum)
        assert "requested" in article.locator("header").inner_text()


def select_top_frames(saliency):
    """Select the top frames; F1 with them as key-frames is 1."""
    is_top = [np.sort(saliency)[::-1][int(0.15 * len(saliency))] <= value for value in saliency]
    assert f1_per_annotator(saliency, np.array([is_top] * 10, int)).tolist() == [1.0] * 10
    return np.array(is_top)


def test_report_on_a_phone_in_print_and_without_javascript(browser, page_file):
    with open_page(browser, page_file.as_uri(), width=390) as (page, _, messages):
        assert page.evaluate("document.documentElement.scrollWidth") == 390 and not messages
        assert page.locator("article").first.bounding_box()["width"] > 300
        page.emulate_media(media="print")
        assert not page.locator(".controls").is_visible() and page.locator("article svg").first.is_visible()
        assert len(page.pdf()) > 20_000
    with open_page(browser, page_file.as_uri(), java_script_enabled=False) as (page, _, _):
        assert page.locator("article").count() >= 3 and page.get_by_text("require JavaScript").is_visible()
    text = page_file.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "duplicate ids"
    assert html.escape(ATTACK) in text and text.count("</script>") == 1


def test_malicious_video_id_runs_no_script(browser, run_folder, tmp_path):
    """The id is escaped, and the content security policy blocks scripts in attributes."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    evil = 'x" onload="document.title=1" y="'
    for name in ("anno/test_videoxum.json", "predictions_test.jsonl", "scores_test.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("mini_test_003", json.dumps(evil)[1:-1]))
    annotations = str(folder / "anno/test_videoxum.json")
    command.main([str(folder), "--annotations", annotations, "--random", "0", "--ids", evil])
    with open_page(browser, (folder / "report.html").as_uri()) as (page, _, messages):
        assert page.title().endswith("report") and not messages
        assert page.get_by_role("img", name=f"Timeline of video {evil}").is_visible()
        page.evaluate("document.body.innerHTML += '<img src=x onerror=\"document.title=1\">'")
        page.wait_for_timeout(100)
        assert page.title().endswith("report")


def test_all_baseline_rows_are_shown(run_folder, tmp_path):
    """In the file's order; a row may lack metrics."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    results = json.loads((folder / "results_test.json").read_text())
    results["baselines"] = dict(middle=dict(F1=0.123), shuffled=dict(CIDEr=0.045), random=dict(F1=0.1, Kendall=0.0))
    (folder / "results_test.json").write_text(json.dumps(results))
    command.main([str(folder), "--best", "0", "--worst", "0", "--random", "0"])
    text = (folder / "report.html").read_text()
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text))
    cells = {label: re.findall("<td>(.*?)</td>", row) for label, row in rows.items()}
    assert list(cells)[:3] == ["middle", "shuffled", "random"]
    assert cells["middle"] == ["12.3", *["–"] * 7]
    assert cells["shuffled"] == [*["–"] * 6, "4.5", "–"]
    assert "<em>random</em>: uniform random saliency" in text and "<em>human</em>" not in text


def test_events_are_clipped_to_the_video(run_folder):
    (video,) = load_report_data(run_folder, best=0, worst=0, random=0, ids=["mini_test_003"]).videos
    T = video.record.duration
    spans = ((-20.0, 10.0), (5.0, 1e5), (9.0, 3.0), (2 * T, 3 * T), (1.0, 2.0))
    video = dataclasses.replace(video, record=dataclasses.replace(video.record, spans=spans))
    end = max(T, video.record.num_frames)
    assert figures.clip_events(video) == [(1, 0.0, 10.0), (2, 5.0, end), (5, 1.0, 2.0)]
    assert "<svg" in figures.draw_timeline(video)


def test_downsampled_curves_keep_their_peaks():
    values = np.zeros(20_000)
    values[[7, 19_999]] = 0.5, 1.0
    edges, heights = figures.downsample_max(values)
    assert len(heights) <= 1500 and (edges[0], edges[-1]) == (0, 20_000) and len(edges) == len(heights) + 1
    assert heights[0] == 0.5 and heights[-1] == 1.0 and heights.sum() == 1.5
    assert figures.downsample_max(values[:9])[1].tolist() == values[:9].tolist()


def test_extract_curves():
    log = [
        dict(type="step", epoch=0, step=1, loss=4.0, lr=1e-3, loss_vsum=None),
        dict(type="step", epoch=0, step=3, loss=3.0, lr=1e-3),
        dict(type="epoch", epoch=0, loss=3.5),
        dict(type="evaluation", epoch=0, split="val", F1=0.5),
        dict(type="step", epoch=1, step=1, loss=2.0, lr=5e-4),
    ]
    assert extract_curves(log) == {
        "train": dict(loss=([0.5, 1.0, 1.5], [4.0, 3.0, 2.0]), lr=([0.5, 1.0, 1.5], [1e-3, 1e-3, 5e-4])),
        "scores_val": dict(F1=([1], [0.5])),
    }
    assert figures.downsample_mean(list(range(10)), list(range(10)), max_points=4) == ([1.0, 4.0, 7.0, 9.0],) * 2


def test_missing_and_damaged_inputs_raise(run_folder, tmp_path):
    broken = shutil.copytree(run_folder, tmp_path / "run")
    with pytest.raises(ValueError, match=r"ids: video none: not among the 7 scored ones"):
        command.main([str(broken), "--ids", "none"])
    with pytest.raises(FileNotFoundError, match=r"results_val.json: results: no such file; scored splits: test"):
        command.main([str(broken), "--split", "val"])
    with pytest.raises(FileNotFoundError, match=r"elsewhere.json: annotations: no such file"):
        command.main([str(broken), "--annotations", "elsewhere.json"])
    lines = (broken / "predictions_test.jsonl").read_text().splitlines()
    (broken / "predictions_test.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"predictions_test.jsonl: video mini_test_\d+: missing"):
        command.main([str(broken)])
    (broken / "predictions_test.jsonl").write_text("\n".join(lines))
    for line in ("{", "{}", '{"type": "step", "epoch": 0}', '{"type": "evaluation", "epoch": 0}'):
        (broken / "log.jsonl").write_text(line + "\n{}")
        with pytest.raises(ValueError, match=r"log.jsonl: line 1: "):
            command.main([str(broken)])
    with pytest.raises(ValueError, match="invalid choice"):
        command.main([str(broken), "--by", "SPICE"])
    (broken / "log.jsonl").write_text("{")  # truncated
    (broken / "report.html").unlink(missing_ok=True)
    command.main([str(broken), "--by", "METEOR", "--random", "0"])
    assert "Training</h2>" not in (broken / "report.html").read_text()


@pytest.mark.soak
def test_report_of_4000_videos(browser, tmp_path):
    """A report as large as VideoXum's test split is below 20 MB and searchable."""
    rng, N = np.random.default_rng(0), 4000
    entries = []
    for i in range(N):
        onehot = (rng.random((10, 120)) < 0.15).astype(int)
        entries.append(
            dict(video_id=f"v_{i:011}", duration=120.0, tsum=["word " * 40] * 3, vsum_onehot=onehot.tolist())
        )
    (tmp_path / "test_videoxum.json").write_text(json.dumps(entries))
    records = load_annotations(tmp_path / "test_videoxum.json")
    predictions = [
        Prediction(
            video_id=record.video_id,
            caption="word " * 30 + record.video_id,
            saliency=rng.random(120).tolist(),
            vt_clip_score=0.3,
        )
        for record in records
    ]
    results, scores = score_predictions(
        [prediction.model_copy(update=dict(caption=None)) for prediction in predictions], records
    )
    write_predictions(tmp_path, "test", predictions, records)
    write_scores(tmp_path, "test", results | dict(config=Config(ann_root=str(tmp_path)).as_dict()), scores)
    command.main([str(tmp_path)])
    assert (tmp_path / "report.html").stat().st_size < 20e6
    with open_page(browser, (tmp_path / "report.html").as_uri()) as (page, _, messages):
        page.get_by_label("Search ids and captions").fill("v_00000003999")
        assert page.get_by_role("status").inner_text() == "1 of 4000 videos" and not messages
