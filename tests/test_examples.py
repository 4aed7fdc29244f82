"""The notebooks of `examples/`, run from top to bottom in a kernel."""

import os

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT


def test_notebook_runs_on_the_mini_model(mini_videos, untrained_checkpoint, tmp_path):
    for path in ROOT.iterdir():
        if path.name not in ("dataset", "outputs") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    for name, target in (("dataset/mini", mini_videos), ("outputs/mini/checkpoint.pth", untrained_checkpoint)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    notebook = nbformat.read(ROOT / "examples/summarize.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    environment = os.environ | dict(PYTHONPATH=str(tmp_path))
    client = NotebookClient(notebook, timeout=120, resources=dict(metadata=dict(path=str(tmp_path))))
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html", "text/plain"} <= kinds
    assert (tmp_path / "outputs/notebook/mini_test_000/summary.mp4").is_file()
