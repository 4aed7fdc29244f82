"""Score a VTSUM-BLIP checkpoint: predict, then score.

    python -m torch.distributed.run --nproc_per_node=4 eval_v2vt_sum.py --config configs/vtsum_blip_tt.yaml \\
        --output_dir outputs/vtsum_tt --pretrained_model outputs/vtsum_tt/vtsum_tt.pth --model vtsum_blip_tt
"""

from engine.config import load_config
from utils.log import run_main


def main(argv=None):
    config, overridden = load_config(argv, __doc__.splitlines()[0])
    if not config.pretrained_model:
        raise ValueError("pretrained_model: missing, expected the checkpoint to score (--pretrained_model PATH)")
    from engine.evaluator import Evaluator
    from engine.setup import begin, build_model, load_trained
    from utils import distributed
    from utils.download import resolve_file

    world = begin(config, overridden, splits=config.splits, log_file="eval.log", config_file="config_eval.yaml")
    with distributed.local_main_first(world):
        checkpoint = resolve_file(config.pretrained_model)
    model = build_model(config)
    trained_with = load_trained(config, model, checkpoint)
    Evaluator(config, world).evaluate(model.to(world.device), checkpoint=checkpoint, trained_with=trained_with)
    distributed.stop()


if __name__ == "__main__":
    run_main(main, resumable=True)
