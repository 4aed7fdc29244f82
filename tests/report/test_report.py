import base64
import dataclasses
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data.registry import load_annotations
from engine.config import Config
from engine.predictions import Prediction, read_predictions, write_predictions
from engine.scoring import score_predictions, write_scores
from metrics.keyframes import f1_per_annotator
from report import __main__ as command
from report import figures
from report.content import extract_curves, load_report_data
from report.frames import choose_seconds
from tests.helpers.browser import open_page
from tests.helpers.clips import constant_rate, read_milliseconds, write_clip
from utils.text import format_time

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
    log += [dict(type="epoch", epoch=epoch, loss=4.0, val_loss=value) for epoch, value in enumerate((5.0, 4.5, 5.0))]
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


def visible_hints(page):
    """For each box that scrolls sideways: whether its content is wider, and whether its hint is shown."""
    script = "boxes => boxes.map(b => [b.scrollWidth > b.clientWidth, b.previousElementSibling.checkVisibility()])"
    assert page.eval_on_selector_all(".scroll", "boxes => boxes.every(b => b.previousElementSibling.matches('.hint'))")
    return page.eval_on_selector_all(".scroll", script)


@pytest.mark.parametrize("width", [400, 1400])
def test_boxes_that_do_not_fit_show_that_they_scroll(browser, page_file, width):
    """At 1400 pixels all columns of the tables fit; captions are shown in full, and no text leaves its plot."""
    with open_page(browser, page_file.as_uri(), width=width) as (page, _, messages):
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") == width and not messages
        hints = visible_hints(page)
        assert all(is_wider == is_shown for is_wider, is_shown in hints)
        tables = [page.get_by_role("region", name=f"Table of {name}") for name in ("scores", "all videos")]
        fits = [table.evaluate("b => b.scrollWidth <= b.clientWidth") for table in tables]
        assert fits == [width == 1400] * 2 and any(is_wider for is_wider, _ in hints) == (width == 400)
        count_cut = """parts => parts.filter(
            part => part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth + 1).length"""
        assert page.eval_on_selector_all("#videos td.text, .captions p, .captions li", count_cut) == 0
        outside = """svgs => svgs.flatMap(svg => [...svg.querySelectorAll("text")].filter(text => {
            const [a, b] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
            return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
        }).map(text => text.textContent))"""
        assert page.eval_on_selector_all("svg", outside) == []


def test_legends_are_above_the_plots(run_folder, monkeypatch):
    """A legend in the axes would cover the data. Epochs are counted from 1."""
    drawn, data = [], load_report_data(run_folder)
    monkeypatch.setattr(figures, "_svg", lambda figure, label: drawn.append(figure))
    figures.draw_training_curves(data.log)
    figures.draw_distributions(data.run, ["F1", "Kendall", "CIDEr"])
    figures.draw_timeline(data.videos[0])
    assert [len(figure.axes) for figure in drawn] == [4, 3, 4]
    for figure, expected in zip(drawn, (2, 3, 1)):
        figure.draw_without_rendering()
        axes = [axis for axis in figure.axes if axis.get_legend() is not None]
        assert len(axes) == expected
        for axis in axes:
            legend = axis.get_legend().get_window_extent()
            assert legend.y0 >= axis.get_window_extent().y1 and legend.x1 <= figure.bbox.x1
    assert all(axis.get_xticks().tolist() == [1, 2, 3] for axis in drawn[0].axes)


def test_validation_loss_is_drawn(browser, page_file):
    with open_page(browser, page_file.as_uri()) as (page, _, _):
        label = "loss goes from 5 to 3; on the validation split, it is lowest, 4.5, after epoch 2"
        curves = page.get_by_role("img", name=f"Curves over the epochs; {label}")
        texts = curves.locator("text").all_text_contents()
        assert {"training", "validation, lowest after epoch 2", "scores on val"} <= set(texts)


def test_one_video_has_no_distribution(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    for name in ("predictions_test.jsonl", "scores_test.jsonl"):
        (folder / name).write_text((folder / name).read_text().splitlines()[0] + "\n")
    command.main([str(folder)])
    text = (folder / "report.html").read_text()
    assert "Distributions" not in text and text.count("<article") == 1


def test_frames_of_the_videos(browser, run_folder, tmp_path, capsys, caplog):
    """The frames are those of the seconds; a damaged file is left out with a warning."""
    ids = ["mini_test_003", "mini_test_000"]
    videos = load_report_data(run_folder, best=0, worst=0, random=0, ids=ids).videos
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos/mini_test_003.mp4", constant_rate(10, 10 * videos[0].num_frames))
    (tmp_path / "videos/mini_test_000.mp4").write_bytes(b"not a video")
    out, flags = tmp_path / "report.html", ["--best", "0", "--worst", "0", "--random", "1", "--ids", *ids]
    command.main([str(run_folder), "--out", str(out), "--videos", str(tmp_path / "videos"), *flags])
    assert "videos shown, 1 of them with frames" in capsys.readouterr().out
    assert "mini_test_000.mp4: video: not a video, or damaged" in caplog.text
    with open_page(browser, out.as_uri(), width=400) as (page, _, messages):
        images = page.locator("article[data-video=mini_test_003] img")
        assert images.count() == page.locator("img").count() > 1 and not messages
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert all(images.evaluate_all("images => images.map(i => i.complete && i.naturalWidth == 160)"))
        shown = images.evaluate_all("images => images.map(i => [i.src, i.alt])")
    selected = [f"Frame at {format_time(second)}" for second in choose_seconds(videos[0].selected, videos[0].saliency)]
    assert [alt for _, alt in shown][: len(selected)] == selected
    for uri, alt in shown:
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert alt == f"Frame at {format_time(read_milliseconds(np.asarray(image)) // 1000)}"
    (tmp_path / "videos/mini_test_003.mp4").rename(tmp_path / "other.mp4")
    for path in (tmp_path / "videos").iterdir():
        path.rename(path.with_stem("other"))
    with pytest.raises(ValueError, match="videos: found none of the [23] videos to show, such as mini_test_00"):
        command.main([str(run_folder), "--out", str(out), "--videos", str(tmp_path / "videos"), *flags])


def test_one_frame_of_each_segment_is_chosen():
    flags = np.array([1, 1, 1, 0, 1, 1, 0, 1, 0], bool)
    weights = np.array([0.1, 0.9, 0.2, 1.0, 0.5, 0.5, 0.0, 0.3, 0.0])
    assert choose_seconds(flags, weights) == [1, 5, 7]
    assert choose_seconds(np.array([True, False] * 20), np.arange(40.0)) == [28, 30, 32, 34, 36, 38]
    assert choose_seconds(np.zeros(9, bool), weights) == []


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
    assert ">events</text>" in figures.draw_timeline(video)


def test_timeline_without_events_has_no_axis_of_them(run_folder):
    (video,) = load_report_data(run_folder, best=0, worst=0, random=0, ids=["mini_test_003"]).videos
    video = dataclasses.replace(video, record=dataclasses.replace(video.record, spans=()))
    svg = figures.draw_timeline(video)
    assert "events" not in svg and ">annotator</text>" in svg and ">selected</text>" in svg


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
        dict(type="epoch", epoch=0, loss=3.5, val_loss=3.75, val_loss_vsum=None),
        dict(type="evaluation", epoch=0, split="val", F1=0.5),
        dict(type="step", epoch=1, step=1, loss=2.0, lr=5e-4),
    ]
    assert extract_curves(log) == {
        "train": dict(loss=([0.5, 1.0, 1.5], [4.0, 3.0, 2.0]), lr=([0.5, 1.0, 1.5], [1e-3, 1e-3, 5e-4])),
        "validation": dict(loss=([1], [3.75])),
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
