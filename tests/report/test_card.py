import json
import re

from huggingface_hub import ModelCard

from tests.conftest import ROOT
from tests.helpers.processes import run
from utils.files import compute_sha256


def test_model_card_is_filled_from_a_run(train):
    """huggingface_hub reads the card's metadata; fields that only the author knows are left as placeholders."""
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    results = json.loads((folder / "results_val.json").read_text())
    results["baselines"]["middle"] = dict(F1=0.1234)
    (folder / "results_val.json").write_text(json.dumps(results))
    status, output = run(["python", "-m", "report.card", folder], ROOT)
    assert status == 0 and output.endswith("run/README.md: look for [fill in]\n")
    text = (folder / "README.md").read_text()
    metrics = results["metrics"]
    eval_results = {result.metric_name: result for result in ModelCard.load(folder / "README.md").data.eval_results}
    assert {name: result.metric_value for name, result in eval_results.items()} == {
        name: round(metrics[name], 5) for name in ("F1", "Kendall", "Spearman")
    }
    assert eval_results["F1"].dataset_split == "val"
    assert eval_results["F1"].dataset_name == "[fill in]"  # mini VideoXum is not VideoXum
    assert compute_sha256(folder / "checkpoint.pth") in text and "The scores above are of this file." in text
    assert re.search(r"^\| middle, val +\| +12\.3 \| +\| +\|$", text, re.M)
    assert "*random* is uniform random saliency, mean of five seeds. *human* is each annotator against" in text
    assert f"{100 * metrics['F1']:.1f}" in text and "| `task`" in text and "{{" not in text
    assert "Captions are English" not in text and "VT-CLIP" not in text  # the run has neither
    with open(folder / "checkpoint.pth", "ab") as file:
        file.write(b"x")
    (folder / "results_val.json").unlink()
    status, output = run(["python", "-m", "report.card", folder], ROOT)
    assert status == 2 and "error: " in output and "Traceback" not in output
