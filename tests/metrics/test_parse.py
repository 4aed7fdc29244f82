import json

import pytest
from hypothesis import given, settings
from hypothesis.strategies import lists, sampled_from

from metrics import parse
from tests.conftest import ROOT
from tests.helpers.documents import read_code, read_document
from tests.helpers.processes import run

# Answers in the styles of several models: name -> (answer, key-frames, segments, caption).
ANSWERS = {
    "lines": ("[3] A man walks.\n[9] He runs.", [3, 9], [], "A man walks. He runs."),
    "tokens": ("[<f3>] A man walks.\n[<f9>] He runs.", [3, 9], [], "A man walks. He runs."),
    "clock segments": (
        "[00:05 - 00:12] A man walks.\n[1:02:03.5–1:02:10] He runs.\n[0:20 to 0:25] He rests.\n[00:30] He waves.",
        [30],
        [(5, 12), (3723.5, 3730), (20, 25)],
        "A man walks. He runs. He rests. He waves.",
    ),
    "segments in seconds and tokens": (
        "[12 - 20] A man walks. [<f3> - <f9>] He runs. [5.5s—7s] He rests. [from 8 to 9 seconds] He waves.",
        [],
        [(12, 20), (3, 9), (5.5, 7), (8, 9)],
        "A man walks. He runs. He rests. He waves.",
    ),
    "lists": ("[1, 5, 9] A man walks.\n[11 and 12; 14] He runs.", [1, 5, 9, 11, 12, 14], [], "A man walks. He runs."),
    "tokens without separators": ("[<f1><f5> <f9>] A man walks.", [1, 5, 9], [], "A man walks."),
    "list with a segment": ("[1, 3-5, 9]", [1, 9], [(3, 5)], ""),
    "several brackets on a line": ("[3] A man walks. [9] He runs.", [3, 9], [], "A man walks. He runs."),
    "brackets in sequence": ("[3], [9] He runs.", [3, 9], [], "He runs."),
    "no text": ("[3]\n[9] ", [3, 9], [], ""),
    "introduction and remark": (
        "Sure! Here is the summary of the video:\n\n[3] A man walks.\n[9] He runs.\n\nLet me know if you need more.",
        [3, 9],
        [],
        "A man walks. He runs.",
    ),
    "introduction on the line": ("Summary: [3] A man walks.", [3], [], "A man walks."),
    "Markdown numbering and bold": (
        "## Summary\n\n1. **[3]** A man *walks*.\n2. **[9]:** He `runs`.\n\n---\n**Note**: times are approximate.",
        [3, 9],
        [],
        "A man walks. He runs.",
    ),
    "Markdown bullets": (
        "* **[0:05 - 0:12]** – A man walks.\n- [ ] [0:20] He runs.\n• _[0:30]_ He rests.\n> [0:40] He waves.",
        [20, 30, 40],
        [(5, 12)],
        "A man walks. He runs. He rests. He waves.",
    ),
    "Markdown headings above the text": (
        "**[0:05]**\nA man walks\nin a park.\n\n### [0:12]\nHe runs.\n\nI hope this helps!",
        [5, 12],
        [],
        "A man walks in a park. He runs.",
    ),
    "Markdown labels below headings": (
        "### Scene 1: [0:00 - 0:10]\n**Event:** A man walks.\n\n### Scene 2: [0:10 - 0:20]\n* **Event**: He runs.",
        [],
        [(0, 10), (10, 20)],
        "A man walks. He runs.",
    ),
    "units": ("[12s] A man walks.\n[0:15s - 0:20 sec] He runs.", [12], [(15, 20)], "A man walks. He runs."),
    "Markdown table": (
        "| time | event |\n|---|---|\n| [0:05 - 0:12] | A man walks. |\n| [0:20] | He runs. |",
        [20],
        [(5, 12)],
        "A man walks. He runs.",
    ),
    "Markdown links": ("[0:05](https://a.org/b?t=5) A man [walks](https://a.org).", [5], [], "A man walks."),
    "one line": ("1. [3] A man walks. 2. [9] He runs.", [3, 9], [], "A man walks. He runs."),
    "one line of bullets": ("- [3] A man walks. - [9] He runs.", [3, 9], [], "A man walks. He runs."),
    "labels": (
        "Scene 1 [0:05 - 0:12]: A man walks.\n**Scene 2:** [Time: 0:20] He runs.",
        [20],
        [(5, 12)],
        "A man walks. He runs.",
    ),
    "ranges of two brackets": (
        "**[0:05]** - **[0:12]** A man walks.\n[3] to [4] He runs.\n[5]–[6]: He rests.",
        [],
        [(5, 12), (3, 4), (5, 6)],
        "A man walks. He runs. He rests.",
    ),
    "subtitles": ("[00:00:05,250 --> 00:00:12,500] A man walks.", [], [(5.25, 12.5)], "A man walks."),
    "code fence": ("```text\n[3] A man walks.\n[9] He runs.\n```\nDone.", [3, 9], [], "A man walks. He runs."),
    "full-width": ("［３］ A man walks.\n【0：05－0：12】He runs.", [3], [(5, 12)], "A man walks. He runs."),
    "escaped": (r"\[3\] A man walks." + "\n" + r"\[\<f9\>\] He runs.", [3, 9], [], "A man walks. He runs."),
    "HTML": ("<answer>[&lt;f3&gt;] A man &amp; a dog walk.<br>\n</answer><|im_end|>", [3], [], "A man & a dog walk."),
    "nested": ("[[3]] A man walks.", [3], [], "A man walks."),
    "thinking": ("<think>\nMaybe [1] or [2].\n</think>\n[3] A man walks.", [3], [], "A man walks."),
    "thinking of the prompt": ("Maybe [1] or [2].\n</think>\n\n[3] A man walks.", [3], [], "A man walks."),
    "thinking of another model": ("◁think▷Maybe [1].◁/think▷[3] A man walks.", [3], [], "A man walks."),
    "thinking in another channel": (
        "<|channel|>analysis<|message|>Maybe [1].<|end|><|start|>assistant<|channel|>final<|message|>[3] A man walks.",
        [3],
        [],
        "A man walks.",
    ),
    "JSON text": (json.dumps("[3] A man walks.\n[9] He said \"go\"."), [3, 9], [], 'A man walks. He said "go".'),
    "JSON list": (
        "```json\n" + json.dumps(["[3] A man walks.", "[9] He runs."], indent=1) + "\n```",
        [3, 9],
        [],
        "A man walks. He runs.",
    ),
    "JSON object": (
        json.dumps(dict(summary={"[3]": "A man walks.", "[9]": "He runs."})),
        [3, 9],
        [],
        "A man walks. He runs.",
    ),
    "JSON objects": (
        json.dumps([dict(time="[0:05 - 0:12]", text="A man walks."), dict(time="[20]", text="He runs.")]),
        [20],
        [(5, 12)],
        "A man walks. He runs.",
    ),
    "JSON fields": (
        json.dumps(dict(keyframes=[3, 9.5], summary="A man walks.")),
        [3, 9.5],
        [],
        "A man walks.",
    ),
    "JSON fields in a code fence": (
        'The summary:\n```json\n{"segments": [[5, 12], [20, 25]],\n "text": "A man walks."}\n```\nI hope this helps!',
        [],
        [(5, 12), (20, 25)],
        "A man walks.",
    ),
    "Python list": ("['[3] A man walks.', '[9] The dog\\'s bowl.']", [3, 9], [], "A man walks. The dog\\'s bowl."),
    "damaged JSON": (
        'Here it is:\n```json\n[\n  "[3] A man walks.",\n  "[9] He runs.",\n]\n```',
        [3, 9],
        [],
        "A man walks. He runs.",
    ),
    "quoted texts": ('[3] "A man walks."\n[9] “He runs.”', [3, 9], [], "A man walks. He runs."),
    "quotes within": ('[3] A man says "go".\n[9] A close-up (of feet) - they stop.', [3, 9], [],
                      'A man says "go". A close-up (of feet) - they stop.'),
    "Windows line endings": ("[3] A man walks.\r\n[9] He runs.\r\n", [3, 9], [], "A man walks. He runs."),
    "Chinese": ("以下是摘要：\n[3]：一个人走路。\n[5、9] 他跑步。", [3, 5, 9], [], "一个人走路。 他跑步。"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_read(name):
    answer, keyframes, segments, caption = ANSWERS[name]
    parsed = parse.parse_answer(answer)
    assert (parsed.keyframes, parsed.segments, parsed.caption) == (keyframes, segments, caption)
    assert parsed.unread == []


# Name -> (answer, key-frames, segments, caption, unread parts: line, text, part of the reason).
UNREAD = {
    "no time": (
        "[3] A man walks.\n[later] He runs. [9] He rests.",
        [3, 9],
        [],
        "A man walks. He rests.",
        [(2, "[later] He runs.", "found 'later', expected a time")],
    ),
    "not a clock": ("[0:75] A man.\n[1:60:00] He.\n[-3] It.", [], [], "", [
        (1, "[0:75] A man.", "'0:75'"), (2, "[1:60:00] He.", "'1:60:00'"), (3, "[-3] It.", "'-3'"),
    ]),
    "empty bracket": ("[] A man walks.\n[3]", [3], [], "", [(1, "[] A man walks.", "expected a time")]),
    "end before start": (
        "[9 - 3] A man walks.\n[0:05 - 0:05] He runs.",
        [],
        [(5, 5)],
        "He runs.",
        [(1, "[9 - 3] A man walks.", "found an end before the start")],
    ),
    "part of a list": ("[3, x, 9] A man walks.", [3, 9], [], "A man walks.", [(1, "x", "found 'x', expected a time")]),
    "text before a bracket": (
        "The man walks in [3] and runs.",
        [3],
        [],
        "and runs.",
        [(1, "The man walks in", "found text before a bracket")],
    ),
    "list without a time": (
        "[Start: 3, End: 9] A man walks.",
        [],
        [],
        "",
        [(1, "[Start: 3, End: 9] A man walks.", "found 'Start: 3', expected a time")],
    ),
    "text before an unreadable bracket": (
        "[3] A man walks.\nThe video shows [a man] in a park.",
        [3],
        [],
        "A man walks.",
        [(2, "The video shows [a man] in a park.", "found 'a man', expected a time")],
    ),
    "no bracket": (
        "I cannot watch videos.\n\nSorry.",
        [],
        [],
        "",
        [(1, "I cannot watch videos.\nSorry.", "found no bracket")],
    ),
    "nothing readable": (
        "Summary\n[soon] A man walks.",
        [],
        [],
        "",
        [(2, "[soon] A man walks.", "expected a time"), (1, "Summary", "found no bracket")],
    ),
    "text apart from the times": (
        "Selected frames: [5, 12]\n\nSummary: A man lifts weights.",
        [5, 12],
        [],
        "",
        [(3, "Summary: A man lifts weights.", "found no bracket")],
    ),
    "empty": ("", [], [], "", [(1, "", "found no bracket")]),
    "thinking without an end": ("<think>\n[3] A man walks.", [], [], "", [(1, "", "found no bracket")]),
    "line after a thinking block": (
        "<think>\nHm.\n</think>\n[x] A man.",
        [],
        [],
        "",
        [(4, "[x] A man.", "expected a time")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_unreadable_parts_are_reported(name):
    answer, keyframes, segments, caption, expected = UNREAD[name]
    parsed = parse.parse_answer(answer)
    assert (parsed.keyframes, parsed.segments, parsed.caption) == (keyframes, segments, caption)
    assert [(part.line, part.text) for part in parsed.unread] == [(line, text) for line, text, _ in expected]
    assert all(reason in part.reason for part, (*_, reason) in zip(parsed.unread, expected))


@settings(deadline=None)
@given(lists(sampled_from([*"[]<>{}()01259:-,.;*_`#|\"'\\ \nfsx～［", " to ", "[3", "</think>", "```\n", "9" * 400])))
def test_any_text_gives_a_prediction(parts):
    parsed = parse.parse_answer("".join(parts))
    prediction = parsed.to_prediction("a")
    assert json.loads(json.dumps(prediction, allow_nan=False)).keys() <= {
        "video_id",
        "keyframes",
        "segments",
        "caption",
    }
    assert all(0 <= start <= end for start, end in parsed.segments) and all(time >= 0 for time in parsed.keyframes)
    assert parsed.keyframes or parsed.segments or (parsed.unread and not parsed.caption)


def test_tokens_are_seconds_of_the_table():
    token = {"<f0>": 0.0, "<f1>": 2.5, "<f2>": 5}
    parsed = parse.parse_answer("[<f1>] A man walks.\n[<f0> - <f2>] He runs.\n[<f7>] He rests.\n[12]", token)
    assert (parsed.keyframes, parsed.segments) == ([2.5, 12], [(0, 5)])
    (part,) = parsed.unread
    assert part == parse.UnreadPart(3, "[<f7>] He rests.", "found '<f7>', expected a key of token")
    assert parse.parse_answer("[<f1>]", {}).keyframes == []


def write_answers(path, *entries):
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_command(tmp_path, capsys):
    """One line per video, also where nothing is read; the file of unread parts is not left over."""
    entries = [
        dict(video_id="a", answer="[3] A man walks.\n[x] He runs."),
        dict(video_id="b", answer="[0:05 - 0:12] A dog.", token=None),
        dict(video_id="c", answer="Sorry\x1b[2J."),
        dict(video_id="d", answer="[<f1>, 2 - 3]", token={"<f1>": 7.5}),
    ]
    answers, out = write_answers(tmp_path / "answers.jsonl", *entries), tmp_path / "new" / "predictions.jsonl"
    parse.main([str(answers), "--out", str(out)])
    assert read_lines(out) == [
        dict(video_id="a", keyframes=[3.0], caption="A man walks."),
        dict(video_id="b", segments=[[5.0, 12.0]], caption="A dog."),
        dict(video_id="c", keyframes=[], caption=""),
        dict(video_id="d", keyframes=[7.5], segments=[[2.0, 3.0]], caption=""),
    ]
    unread = tmp_path / "new" / "predictions.jsonl.unread.jsonl"
    reason = "found 'x', expected a time"
    assert read_lines(unread)[0] == dict(video_id="a", line=2, text="[x] He runs.", reason=reason)
    assert [line["video_id"] for line in read_lines(unread)] == ["a", "c"]
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == f"{answers}: line 1: video a: answer line 2: {reason}: '[x] He runs.'"
    assert len(printed.err.splitlines()) == 2 and "\x1b" not in printed.err
    assert printed.out == (f"{out}: answers 4, key-frames 2, segments 2, captions 2, unread parts 2, see {unread}\n")
    parse.main([str(write_answers(answers, entries[1])), "--out", str(out)])
    assert not unread.exists() and len(read_lines(out)) == 1
    printed = capsys.readouterr()
    assert (
        printed.out.endswith(": answers 1, key-frames 0, segments 1, captions 1, unread parts 0\n") and not printed.err
    )


def test_further_fields_are_ignored(tmp_path):
    answers, out = tmp_path / "answers.jsonl", tmp_path / "p.jsonl"
    write_answers(answers, dict(video_id="a", answer="[3] A man.", question="What happens?", model="x"))
    parse.main([str(answers), "--out", str(out)])
    assert read_lines(out) == [dict(video_id="a", keyframes=[3.0], caption="A man.")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: found a list of 0, expected an object"),
        (dict(answer="[3]"), "line 2: video_id: missing"),
        (dict(video_id="b"), "line 2: video b: answer: missing"),
        (dict(video_id="", answer="[3]"), "line 2: video_id: found '', expected a name"),
        (dict(video_id="x\n", answer="[3]"), r"line 2: video_id: found 'x\n', expected a name"),
        (dict(video_id="b", answer=3), "line 2: video b: answer: found 3, expected text"),
        (dict(video_id="b", anwser="[3]"), "video b: answer: missing; anwser: unknown field; did you mean answer?"),
        (dict(video_id="b", response="[3]"), "line 2: video b: answer: missing; response: unknown field"),
        (dict(video_id="b", answer="", token={"<f0>": "3"}), "token: <f0>: found '3', expected a finite number"),
        (dict(video_id="b", answer="", token={"<f0>": -1}), "video b: token: <f0>: found -1, expected at least 0"),
        (dict(video_id="a", answer="[3]"), "line 2: video a: found again, expected each video once"),
    ],
)  # fmt: skip
def test_invalid_answers_are_one_line(tmp_path, line, message):
    answers, out = write_answers(tmp_path / "answers.jsonl", dict(video_id="a", answer="[x]"), line), tmp_path / "out"
    status, output = run(["python", "-m", "metrics.parse", answers, "--out", out], ROOT)
    assert status == 2 and output.startswith(f"error: {answers}: ") and output.count("\n") == 1
    assert message in output
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_invalid_paths_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: answers: no such file"):
        parse.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    empty = write_answers(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="empty.jsonl: answers: found none, expected at least one video"):
        parse.main([str(empty), "--out", str(tmp_path / "out")])
    answers = write_answers(tmp_path / "answers.jsonl", dict(video_id="a", answer="[x]"))
    with pytest.raises(OSError, match="folder: cannot be written"):
        (tmp_path / "folder").mkdir()
        parse.main([str(answers), "--out", str(tmp_path / "folder")])
    assert {path.name for path in tmp_path.iterdir()} == {"answers.jsonl", "empty.jsonl", "folder"}
    with pytest.raises(ValueError, match="out: found .*empty.jsonl, expected another file than ANSWERS"):
        parse.main([str(empty), "--out", f"{tmp_path}/../{tmp_path.name}/empty.jsonl"])


def test_documented_example(tmp_path, monkeypatch, capsys):
    """The answers in docs/evaluation.md give the predictions in it."""
    section = read_document("evaluation").split("## Answers of language models\n")[1].split("\n## ")[0]
    answers, predictions, unread = (block.split("```")[0] for block in section.split("```json\n")[1:])
    command = next(line for line in read_code("evaluation").splitlines() if "metrics.parse" in line).split()
    monkeypatch.chdir(tmp_path)
    (tmp_path / command[3]).write_text(answers)
    parse.main(command[3:])
    assert (tmp_path / command[5]).read_text() == predictions
    assert (tmp_path / f"{command[5]}.unread.jsonl").read_text() == unread
    assert capsys.readouterr().out.strip() in " ".join(section.split())
