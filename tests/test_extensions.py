"""The commands of docs/extensions.md, on few videos and with local models in place of those of the hub."""

import pytest

from benchmarks.language_models import write_language_model
from tests.helpers.documented_commands import SHORT_RUN, make_demo, parse_command, run_main_of
from tests.helpers.documents import read_code
from tests.helpers.encoders import save_timm_encoder


@pytest.fixture
def run_command(mini_videos, tmp_path, monkeypatch):
    """Return a function that runs a documented command line in this process, on data as that of `make demo`."""
    monkeypatch.chdir(tmp_path)
    make_demo(mini_videos)
    names = {
        "timm:vit_base_patch16_dinov3.lvd1689m=dinov3": f"{save_timm_encoder(tmp_path / 'vit.pth')}=dinov3",
        "HuggingFaceTB/SmolLM2-135M": str(write_language_model("lm", "llama", mini_videos / "tokenizer")),
    }

    def run(line):
        name, argv = parse_command(line)
        argv = [names.get(word, word) for word in argv]
        run_main_of(name, [*argv, *(SHORT_RUN if name == "train_v2vt_sum" else ())])

    return run


def test_commands(run_command, tmp_path, capsys):
    lines = [line for line in read_code("extensions").splitlines() if line.startswith("python ")]
    assert len(lines) == 9
    for line in lines:
        run_command(line)
    output = capsys.readouterr().out
    table = next(line for line in output.splitlines() if " encoder " in line)
    assert "feature_width" in table and "timm:test_vit" in output and "blip " in output
    for name in ("dinov3", "own", "v2xum", "smollm"):
        assert (tmp_path / f"outputs/mini_{name}/results_test.json").is_file()
    assert (tmp_path / "outputs/mini_dinov3/summaries/mini_test_000/summary.mp4").is_file()
