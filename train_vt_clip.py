"""Fine-tune CLIP into VT-CLIP, the model of VT-CLIPScore.

    python -m torch.distributed.run --nproc_per_node=4 train_vt_clip.py --config configs/vt_clip.yaml

From the frozen `vision` features of `extract_features.py --vt_clip CLIP`, only the text tower and the projections are
trained; from video files (`--videos DIR`), the image tower too. `load_vt_clip` reads OUTPUT_DIR/vt_clip.pth.
"""

from collections.abc import Sequence

from engine.config import VTClipConfig
from utils.command_line import CHECK_PASSED, add_check_option, load_settings
from utils.log import run_main


def main(argv: Sequence[str] | None = None) -> None:
    command = load_settings(VTClipConfig, argv, __doc__.splitlines()[0], add_check_option)
    from engine.checks import check_vt_clip_training
    from engine.vt_clip_training import build_vt_clip_trainer
    from utils import distributed

    if command.arguments.check:
        check_vt_clip_training(command.settings)
        print(CHECK_PASSED)
        return
    build_vt_clip_trainer(command.settings, command.notes).fit()
    distributed.shutdown()


if __name__ == "__main__":
    run_main(main, resumable=True)
