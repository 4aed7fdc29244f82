"""Train VTSUM-BLIP.

    python -m torch.distributed.run --nproc_per_node=4 train_v2vt_sum.py --config configs/vtsum_blip_tt_ca.yaml \\
        --output_dir outputs/vtsum_tt_ca --model vtsum_blip_tt_ca --max_epoch 56 --lambda_tsum 1.0 \\
        --lambda_vsum 15.0 --init_lr 2e-5 --kernel_size 5 --batch_size 16 --ckpt_freq 56
"""

from collections.abc import Sequence

from engine.config import load_config
from utils.command_line import CHECK_PASSED, add_check_option
from utils.log import run_main


def main(argv: Sequence[str] | None = None) -> None:
    command = load_config(argv, __doc__.splitlines()[0], add_check_option)
    config = command.settings
    from engine.checks import check_evaluation, check_training
    from engine.evaluator import evaluate_checkpoint
    from engine.setup import find_weights_to_evaluate
    from engine.training import build_vtsum_trainer
    from utils import distributed

    if config.predict_only:
        raise ValueError(
            "predict_only: found true, expected false in training; eval_v2vt_sum.py --predict_only predicts"
        )
    weights = find_weights_to_evaluate(config) if config.evaluate else ""
    if command.arguments.check:
        if config.evaluate:
            check_evaluation(config, weights, read_annotations=True)
        else:
            check_training(config, read_annotations=True)
        print(CHECK_PASSED)
        return
    if config.evaluate:
        evaluate_checkpoint(config, command.notes, weights)
    else:
        build_vtsum_trainer(config, command.notes).fit()
    distributed.shutdown()


if __name__ == "__main__":
    run_main(main, resumable=True)
