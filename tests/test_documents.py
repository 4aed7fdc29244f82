"""Links and flags of the README and docs/; what their commands do is tested where the commands are."""

import importlib
import re
import shlex

import pytest
import yaml

from engine.config import load_config
from tests.conftest import ROOT
from tests.documents import code, commands, document

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
    recipe = re.search(r'recipe="(.*)"', code("ablations")).group(1)
    own = re.findall(r"^\$run (.*)$", code("ablations"), re.M)
    assert len(own) == 4
    for flags in own:
        config, overridden = load_config(shlex.split(recipe.replace("configs/", f"{ROOT}/configs/") + " " + flags))
        assert config.max_epoch == 56 and config.lambda_vsum == 15 and "output_dir" in overridden
    shipped = commands("ablations", "_v2vt_sum.py")
    assert len(shipped) == 3
    for line in shipped:
        words = shlex.split(line.replace("configs/", f"{ROOT}/configs/"))
        config, _ = load_config(words[words.index("--config") :])
        assert config.output_dir.startswith("outputs/ablations/")


def test_the_documented_make_targets_exist():
    pages = document("README") + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"(?:^|`)make (\w+)", pages, re.M))
    assert {"demo", "test", "lint", "soak", "bench", "app"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
