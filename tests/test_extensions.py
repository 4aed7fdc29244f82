"""The commands of docs/extensions.md, on few videos and with local models in place of those of the hub."""

import glob
import importlib
import shlex

import pytest

from benchmarks.language_models import write_language_model
from tests.conftest import ROOT
from tests.helpers.documents import read_code
from tests.helpers.encoders import save_timm_encoder

SHORT_RUN = ["--batch_size", "2", "--max_epoch", "1", "--splits", "test", "--max_text_length", "12", "--device", "cpu"]


@pytest.fixture
def run_command(mini_videos, tmp_path, monkeypatch):
    """Return a function that runs a documented command line in this process, on data as that of `make demo`."""
    (tmp_path / "dataset/mini").mkdir(parents=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for path in mini_videos.iterdir():
        if path.name != "feat":
            (tmp_path / "dataset/mini" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = {
        "timm:vit_base_patch16_dinov3.lvd1689m=dinov3": f"{save_timm_encoder(tmp_path / 'vit.pth')}=dinov3",
        "HuggingFaceTB/SmolLM2-135M": str(write_language_model("lm", "llama", mini_videos / "tokenizer")),
    }

    def run(line):
        program, *argv = shlex.split(line)[1:]
        if program == "-m":
            program, *argv = argv
        argv = [name for word in argv for name in (sorted(glob.glob(word)) if "*" in word else [names.get(word, word)])]
        if program == "train_v2vt_sum.py":
            argv += SHORT_RUN
        importlib.import_module(program.removesuffix(".py")).main(argv)

    return run


def test_commands(run_command, tmp_path, capsys):
    features = "python extract_features.py --videos dataset/mini/videos --out dataset/mini/feat"
    run_command(
        f"{features} --annotations dataset/mini/anno/*.json --image_size 64 --device cpu --num_workers 0 "
        "--blip dataset/mini/frame_encoder.pth --vt_clip dataset/mini/vt_clip.pth"
    )
    run_command("python train_v2vt_sum.py --config configs/mini.yaml --output_dir outputs/mini")
    lines = [line for line in read_code("extensions").splitlines() if line.startswith("python ")]
    assert len(lines) == 8
    for line in lines:
        run_command(line)
    output = capsys.readouterr().out
    table = next(line for line in output.splitlines() if " encoder " in line)
    assert "feature_width" in table and "timm:test_vit" in output and "blip " in output
    for name in ("dinov3", "own", "v2xum", "smollm"):
        assert (tmp_path / f"outputs/mini_{name}/results_test.json").is_file()
    assert (tmp_path / "outputs/mini_dinov3/summaries/mini_test_000/summary.mp4").is_file()
