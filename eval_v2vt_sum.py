"""Score a VTSUM-BLIP checkpoint: predict, then score.

    python -m torch.distributed.run --nproc_per_node=4 eval_v2vt_sum.py --config configs/vtsum_blip_tt.yaml \\
        --output_dir outputs/vtsum_tt --pretrained_model outputs/vtsum_tt/vtsum_tt.pth --model vtsum_blip_tt
"""

from collections.abc import Sequence

from engine.config import load_config
from utils.command_line import CHECK_PASSED, add_check_option
from utils.log import run_main


def main(argv: Sequence[str] | None = None) -> None:
    command = load_config(argv, __doc__.splitlines()[0], add_check_option)
    config = command.settings
    if not config.pretrained_model:
        raise ValueError("pretrained_model: missing, expected the checkpoint to score (--pretrained_model PATH)")
    from engine.checks import check_evaluation
    from engine.evaluator import evaluate_checkpoint
    from utils import distributed

    if command.arguments.check:
        check_evaluation(config, config.pretrained_model, read_annotations=True)
        print(CHECK_PASSED)
        return
    evaluate_checkpoint(config, command.notes, config.pretrained_model)
    distributed.shutdown()


if __name__ == "__main__":
    run_main(main, resumable=True)
