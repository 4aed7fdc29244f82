"""Targets of the Makefile, with an environment of its own and in an active one."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ACTIVE = [f"PYTHON={sys.executable}", "VENV="]


def make(*arguments):
    """Run make in the repository; returns status and output."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")  # of the `make test` that runs this test
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    result = subprocess.run(["make", "-C", str(ROOT), *arguments], env=environment, capture_output=True, text=True)
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
