"""The page of a report: one HTML file with its style, script, data and plots, which asks for nothing else."""

import base64
import hashlib
import html
import pathlib
import re
import string

from data.annotations import ANNOTATORS, VIDEOS
from metrics.registry import METRICS, PAPER_METRICS, format_score
from report import figures
from report.content import as_script
from report.runs import ABOUT_F1, dumps, is_videoxum, published
from utils.files import atomic_write
from utils.text import clock

TEMPLATE = pathlib.Path(__file__).with_name("template.html")
_escape = html.escape


def write_report(content, path):
    """Write a report.

    Args:
        content: `Content`.
        path: .html file, replaced in one step.
    """
    run = content.run
    metrics = [name for name in METRICS if name in run.metrics]
    main = [name for name in METRICS if name in run.metrics and name in (*PAPER_METRICS, content.by)]
    columns = [dict(name="video")] + [dict(name="seconds", digits=0, factor=1)]
    columns += [dict(name=name, **_digits(name)) for name in main]
    columns += [dict(name="generated caption"), dict(name="reference")]
    curves = figures.training_curves(content.log)
    counts = run.results["num_videos"]
    text = dict(
        title=_escape(f"{run.folder.resolve().name}, {run.split}"),
        summary=_escape(f"{counts['scored']} of {counts['expected']} videos of the split {run.split}. {_what(run)}"),
        contents='<a href="#curves">Curves</a> · ' * bool(curves) + '<a href="#spread">Distributions</a> · ',
        table=_score_table(run, main),
        remarks=_remarks(run),
        curves=_figure("curves", "Training", curves) if curves else "",
        distributions=_figure("spread", "Distributions", figures.distributions(run, main)),
        shown=_escape(
            f"{len(content.videos)} of the {len(run.video_ids)} videos; search, sort key and order above hold here too."
        ),
        sections="\n".join(_section(video, metrics, n) for n, video in enumerate(content.videos)),
        settings=_settings(run),
        columns=as_script(columns),
        rows=as_script([_row(content, i, main) for i in range(len(content.rows))]),
        by=str([column["name"] for column in columns].index(content.by)),
        script_hash="$script_hash",
    )
    page = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(text)
    (script,) = re.findall(r"<script>(.*)</script>", page, re.S)  # the only one that the browser may run
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    with atomic_write(path) as file:
        file.write(page.replace("$script_hash", f"'sha256-{digest}'", 1))


def _digits(name):
    return dict(digits=METRICS[name].digits, factor=METRICS[name].scale)


def _row(content, i, metrics):
    video_id, frames, caption, reference = content.rows[i]
    scores = [round(float(content.run.scores[name][i]), 5) for name in metrics]
    return [video_id, frames, *scores, caption or "", reference]


def _what(run):
    settings = run.settings
    parts = [str(settings[name]) for name in ("model", "task") if name in settings]
    checkpoint = run.results.get("checkpoint_sha256")
    return ", ".join(parts) + (f"; checkpoint SHA-256 {str(checkpoint)[:16]}…" if checkpoint else "")


def _score_table(run, metrics):
    """The run beside the published figures, chance and the annotators."""
    rows = [("this run", run.metrics, ' class="model"')]
    rows += [(name, values, "") for name, values in (run.baselines | published(run.split)).items()]
    body = []
    for name, values, css in rows:
        cells = "".join(f"<td>{format_score(m, values[m]) if m in values else '–'}</td>" for m in metrics)
        body.append(f'<tr{css}><th scope="row">{_escape(name)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in metrics)
    caption = "Times 100, but Kendall's τ and Spearman's ρ."
    return (f"<table><caption>{caption}</caption><thead><tr><th scope=\"col\">row</th>{head}</tr></thead>"
            f"<tbody>{''.join(body)}</tbody></table>")  # fmt: skip


def _remarks(run):
    words = "<em>random</em>: uniform saliency, mean of five seeds; <em>human</em>: each annotator against the others."
    if published(run.split):
        words += f" Published rows are the paper's, of VideoXum's {VIDEOS[run.split]:,} test videos."
        if not is_videoxum(run):
            words += " <strong>This run's videos are others</strong>, so they are no yardstick here."
        words += " " + ABOUT_F1
    return words


def _figure(name, heading, svg):
    return (f'<h2 id="{name}">{heading}</h2>\n<div class="scroll" tabindex="0" role="region" '
            f'aria-label="{heading}">{svg}</div>')  # fmt: skip


def _section(video, metrics, number):
    record = video.record
    scores = "".join(f"<div><dt>{m}</dt><dd>{format_score(m, video.scores[m])}</dd></div>" for m in metrics)
    sentences = "".join(f"<li>{_escape(sentence)}</li>" for sentence in record.tsum)
    generated = "<h4>Generated caption</h4><p>" + _escape(video.caption) + "</p>" if video.caption is not None else ""
    return f"""<article id="video-{number}" data-video="{_escape(record.video_id)}">
<header><h3>{_escape(record.video_id)}</h3>
<span class="faint">{clock(round(record.duration))} · {_escape(video.why)}</span></header>
<dl class="scores">{scores}</dl>
<div class="scroll" tabindex="0" role="region" aria-label="Timeline">{figures.timeline(video)}</div>
<p class="faint">{_in_words(video)}</p>
<div class="captions"><div>{generated}</div>
<div><h4>Reference, a sentence per event</h4><ol>{sentences}</ol></div></div>
</article>"""


def _in_words(video):
    """The timeline as a sentence, for those who do not see it."""
    votes = video.record.vsum_onehot.sum(0)
    words = ["No annotator marked a second."]
    if votes.any():
        words = [f"The annotators agree most ({votes.max()} of {ANNOTATORS}) at {_spans(votes == votes.max())}."]
    if video.chosen is not None:
        words.append(f"The model chose {_spans(video.chosen)}.")
    events = ", ".join(f"{n}: {clock(a)}–{clock(b)}" for n, a, b in figures.spans_within(video))
    return " ".join([*words, f"Events: {events}." if events else ""])


def _spans(flags, most=12):
    runs = [f"{clock(a)}–{clock(a + n)}" for a, n in figures.runs_of(flags)]
    rest = f" and {len(runs) - most} more" if len(runs) > most else ""
    return ", ".join(runs[:most]) + rest


def _settings(run):
    rows = run.settings | dict(seed=run.seed) | (run.results.get("versions") or {})
    return "".join(f"<div><code>{_escape(str(k))}</code>: {_escape(dumps(v))}</div>" for k, v in rows.items())
