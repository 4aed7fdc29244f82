import json

from huggingface_hub import ModelCard

from tests.conftest import ROOT
from tests.processes import run
from utils.files import sha256_of


def test_a_model_card_is_filled_from_a_run(train):
    """Its head is read by the hub's own library; what only the author knows is left open."""
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    status, shown = run(["python", "-m", "report.card", folder], ROOT)
    assert status == 0 and shown.endswith("run/README.md: look for [fill in]\n")
    text = (folder / "README.md").read_text()
    metrics = json.loads((folder / "results_val.json").read_text())["metrics"]
    found = {result.metric_name: result for result in ModelCard.load(folder / "README.md").data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        name: round(metrics[name], 5) for name in ("F1", "Kendall", "Spearman")
    }
    assert found["F1"].dataset_split == "val" and found["F1"].dataset_name == "[fill in]"  # mini is not VideoXum
    assert sha256_of(folder / "checkpoint.pth") in text and "The scores above are this file's." in text
    assert f"{100 * metrics['F1']:.1f}" in text and "| `task`" in text and "{{" not in text
    assert "Captions are English" not in text and "VT-CLIP" not in text  # it has neither
    with open(folder / "checkpoint.pth", "ab") as file:
        file.write(b"x")
    (folder / "results_val.json").unlink()
    status, shown = run(["python", "-m", "report.card", folder], ROOT)
    assert status == 2 and "error: " in shown and "Traceback" not in shown
