"""Links and flags of the README and docs/; what their commands do is tested where the commands are."""

import importlib
import re
import shlex
import subprocess

import pytest
import yaml

from engine.config import load_config
from tests.conftest import ROOT
from tests.documents import code, document

PAGES = ["README", *sorted(path.stem for path in (ROOT / "docs").glob("*.md"))]


def anchors(text):
    """Anchors of a page's headings, as they are made for it on the web."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING"])
def test_links_lead_somewhere(page):
    path = ROOT / f"{page}.md" if page in ("README", "CONTRIBUTING") else ROOT / f"docs/{page}.md"
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


def documented_commands():
    """(page, words) of each line of a code block that runs Python here."""
    for page in PAGES:
        for line in code(page).splitlines():
            line = re.sub(r"^(run=\"|srun .*?(?=python))", "", line)
            if re.match(r"python -c|python .*…|pip", line) or not line.startswith("python "):
                continue
            yield page, shlex.split(line.rstrip('"').split(" || ")[0], comments=True)


def modules():
    return {" ".join(words): (page, words) for page, words in documented_commands()}


@pytest.mark.parametrize("command", sorted(modules()))
def test_documented_flags_exist(command, capsys):
    _, words = modules()[command]
    if words[1:3] == ["-m", "torch.distributed.run"]:
        words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
    name = words[2] if words[1] == "-m" else words[1].removesuffix(".py")
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    with pytest.raises(SystemExit):
        module.main(
            ["convert", "--help"] if "convert" in words else ["card", "--help"] if "card" in words else ["--help"]
        )
    shown = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{word.split('=')[0]}\b", shown), word


def test_the_citation_file_names_the_paper():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = found["preferred-citation"]
    assert found["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= found.keys()
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert names in document("README") and paper["title"] in document("README").replace("\n", " ")


def test_the_documented_ablations_are_valid_commands():
    """A shell runs the documented lines, with a `python` that prints its arguments."""
    program = 'python() { printf "%q " "$@"; echo; }\n' + code("ablations")
    lines = subprocess.run(["bash", "-euc", program], capture_output=True, text=True, check=True).stdout.splitlines()
    runs = [shlex.split(line) for line in lines if "_v2vt_sum.py" in line]
    assert len(runs) == 2 + 3 + 4 + 2 + 3 + 2
    configs = []
    for words in runs:
        words = [word.replace("configs/", f"{ROOT}/configs/") for word in words]
        configs.append(load_config(words[words.index("--config") :]).settings)
    assert all(config.max_epoch == 56 for config in configs)
    assert len({config.output_dir for config in configs}) == len(configs)


def test_the_documented_make_targets_exist():
    pages = document("README") + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:^|`)make (\w+)", pages, re.M))
    assert {"demo", "test", "lint", "soak", "bench", "app"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
