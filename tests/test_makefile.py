"""Targets of the Makefile, with an environment of its own and in an active one."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ACTIVE = [f"PYTHON={sys.executable}", "VENV="]


def make(*arguments, folder=ROOT):
    """Run make in the repository or a copy of it; returns status and output."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")  # of the `make test` that runs this test
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    result = subprocess.run(["make", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("target", ["demo", "test", "soak", "bench", "lint", "app"])
def test_active_environment_is_used_as_it_is(target):
    status, commands = make("-n", target, *ACTIVE)
    assert status == 0, commands
    assert sys.executable in commands
    assert not any(part in commands for part in ("pip install", " -m venv", "bin/python -m pip", ".installed"))
    interpreters = {word for word in commands.split() if word.endswith(("/python", "/python3"))}
    assert interpreters <= {sys.executable}, commands


def test_environment_is_installed_without_an_active_one(tmp_path):
    status, commands = make("-n", "test", f"VENV={tmp_path}/venv", "PYTHON=some-python")
    assert status == 0, commands
    steps = [
        "some-python -c",
        f"some-python -m venv {tmp_path}/venv",
        "pip install",
        f"{tmp_path}/venv/bin/python -m pytest",
    ]
    positions = [commands.index(step) for step in steps]
    assert positions == sorted(positions)
    assert "-r requirements.txt" in commands and "-c constraints.txt" in commands


def test_venv_only_checks_an_active_environment():
    assert make("venv", *ACTIVE)[0] == 0
    assert not (ROOT / ".installed").exists()


def test_old_python_is_refused(tmp_path):
    old = tmp_path / "python"
    old.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10); $1"\n')
    old.chmod(0o755)
    status, output = make("venv", f"PYTHON={old}", "VENV=")
    assert status == 2 and "Python 3.11 or newer is needed" in output


def test_help_names_every_target():
    status, output = make("help")
    assert status == 0
    assert all(f"make {target}" in output for target in ("demo", "app", "test", "soak", "bench", "venv", "lint"))
    assert "PYTHON=python VENV=" in output


def test_demo_says_what_to_open():
    _, commands = make("-n", "demo", *ACTIVE)
    last = commands[commands.index("-m report") :]
    assert "outputs/mini/report.html" in last and "outputs/mini/summaries/mini_test_000/index.html" in last


@pytest.mark.soak
def test_demo_reaches_its_scores(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    status, output = make("demo", *ACTIVE, folder=tmp_path)
    assert status == 0, output
    assert "Warning" not in output
    results = json.loads((tmp_path / "outputs/mini/results_test.json").read_text())
    scores, baselines = results["metrics"], results["baselines"]
    assert scores["F1"] >= 2 * baselines["random"]["F1"] and scores["Kendall"] >= 0.25
    assert scores["CIDEr"] >= max(0.5, baselines["constant"]["CIDEr"], baselines["shuffled"]["CIDEr"])
    assert (tmp_path / "outputs/mini/report.html").is_file()
    assert (tmp_path / "outputs/mini/summaries/mini_test_000/index.html").is_file()
