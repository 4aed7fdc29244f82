"""Links, flags and commands in the README and docs/."""

import importlib
import re
import shlex
import subprocess

import pytest
import yaml

from engine.config import load_config
from metrics.registry import PAPER_METRICS, format_score
from report.runs import PUBLISHED
from tests.conftest import ROOT
from tests.helpers.documents import read_code, read_document, read_first_command

PAGES = ["README", *sorted(path.stem for path in (ROOT / "docs").glob("*.md"))]


def compute_anchors(text):
    """Compute the anchors of a page's headings as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING"])
def test_links_resolve(page):
    path = ROOT / f"{page}.md" if page in ("README", "CONTRIBUTING") else ROOT / f"docs/{page}.md"
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.is_file(), target
        assert not anchor or anchor in compute_anchors(linked.read_text()), target


def documented_commands():
    """Yield (page, argv) of each command in a code block that runs a Python module or script of this project."""
    for page in PAGES:
        for line in read_code(page).splitlines():
            line = re.sub(r"^(run=\"|srun .*?(?=python)|timeout .*?(?=python))", "", line)
            for command in re.split(r" && |; ", line.rstrip('"').split(" || ")[0]):
                if command.startswith("python ") and not re.match(r"python -c|python -m pytest", command):
                    yield page, shlex.split(command, comments=True)


def inline_commands(page):
    """List the commands among a page's inline code."""
    text = re.sub(r"^```.*?^```", "", read_document(page), flags=re.M | re.S)
    return [code for code in re.findall(r"`([^`\n]+)`", text) if re.match(r"(python|make|srun|torchrun) ", code)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_pasted(page):
    """They have no ellipsis; inline code of the README's tables is in the form of a synopsis."""
    commands = read_code(page).splitlines() + (inline_commands(page) if page != "README" else [])
    assert not [command for command in commands if "…" in command or "..." in command]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README", "installation")])
def test_pages_begin_with_a_command_that_runs_after_make_demo(page):
    """On the mini data, or without any; it says how long it takes."""
    first = read_first_command(page)
    assert re.search(r"  # .*\d (seconds?|minutes?)\b", first), first
    assert re.search(r"dataset/mini|outputs/mini|configs/mini\.yaml|pytest", first), first


def test_models_have_the_published_scores():
    """The README's table equals the rows to which reports compare."""
    for name, scores in PUBLISHED.items():
        row = [format_score(metric, scores[metric]) for metric in PAPER_METRICS]
        assert f"| {name} | {' | '.join(row)} |" in read_document("README")


def collect_commands():
    return {" ".join(argv): (page, argv) for page, argv in documented_commands()}


@pytest.mark.parametrize("command", sorted(collect_commands()))
def test_documented_flags_exist(command, capsys):
    _, argv = collect_commands()[command]
    if argv[1:3] == ["-m", "torch.distributed.run"]:
        argv = ["python", *argv[next(i for i, word in enumerate(argv) if word.endswith(".py")) :]]
    name = argv[2] if argv[1] == "-m" else argv[1].removesuffix(".py")
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    with pytest.raises(SystemExit):
        module.main(
            ["convert", "--help"] if "convert" in argv else ["card", "--help"] if "card" in argv else ["--help"]
        )
    help_text = capsys.readouterr().out
    for word in argv:
        if word.startswith("--"):
            assert re.search(rf"{word.split('=')[0]}\b", help_text), word


def test_citation_file_agrees_with_the_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert names in read_document("README") and paper["title"] in read_document("README").replace("\n", " ")


def test_documented_ablations_are_valid_commands():
    """Run the documented lines in a shell, with a `python` that prints its arguments."""
    program = 'python() { printf "%q " "$@"; echo; }\n' + read_code("ablations")
    lines = subprocess.run(["bash", "-euc", program], capture_output=True, text=True, check=True).stdout.splitlines()
    runs = [shlex.split(line) for line in lines if "_v2vt_sum.py" in line]
    assert len(runs) == 3 + 3 + 4 + 2 + 3 + 2
    configs = []
    for argv in runs:
        argv = [word.replace("configs/", f"{ROOT}/configs/") for word in argv]
        configs.append(load_config(argv[argv.index("--config") :]).settings)
    assert all(config.max_epoch == 56 for config in configs)
    assert len({config.output_dir for config in configs}) == len(configs)


def test_documented_make_targets_exist():
    pages = read_document("README") + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:^|`)make (\w+)", pages, re.M))
    assert {"demo", "test", "lint", "soak", "bench", "app"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
