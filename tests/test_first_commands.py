"""The commands with which the pages of docs/ begin, on few videos after a short `make demo`."""

import os

import pytest

from tests.conftest import ROOT
from tests.helpers.documented_commands import SHORT_RUN, make_demo, parse_command, run_main_of
from tests.helpers.documents import read_first_command

PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
# A server, an installation, the reference values, and lines for a shell, whose commands have their own tests.
NOT_RUN = ("demo", "installation", "faithfulness", "reliability", "tvsum_summe")


@pytest.fixture(scope="module")
def demo(mini_videos, tmp_path_factory):
    """Working directory after `make demo`."""
    folder, previous = tmp_path_factory.mktemp("demo"), os.getcwd()
    os.chdir(folder)
    make_demo(mini_videos)
    yield folder
    os.chdir(previous)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN])
def test_first_command(demo, page, capsys):
    name, argv = parse_command(read_first_command(page))
    files = {path: path.stat().st_mtime_ns for path in demo.rglob("*") if path.is_file()}
    run_main_of(name, [*argv, *(SHORT_RUN if name == "train_v2vt_sum" else ())])
    changed = [path for path in demo.rglob("*") if path.is_file() and files.get(path) != path.stat().st_mtime_ns]
    assert changed or capsys.readouterr().out
