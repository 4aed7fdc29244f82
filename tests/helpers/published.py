"""Checkpoints in the layout of the published code, made from those of this project."""

import json

import torch

from tests.conftest import GOLDEN

POSITION_IDS = "text_decoder.bert.embeddings.position_ids"
PATHS = dict(result_dir="outputs/run/result", ckpt_dir="outputs/run/checkpoints", logger_pth="outputs/run/train.log")


def convert_to_published(checkpoint):
    """Convert a TT+CA checkpoint at the end of an epoch to the layout that the published code wrote.

    It has four entries; parameters are in the published order, moments are identified by their index only, steps are
    integers as in PyTorch 1.10, and the configuration has three paths and null for empty strings.
    """
    keys = json.loads((GOLDEN / "state_dict_keys_full.json").read_text())
    order = json.loads((GOLDEN / "optimizer_param_order.json").read_text())["vtsum_blip_tt_ca"]
    stale = {POSITION_IDS: torch.arange(512)[None]}
    (group,) = checkpoint["optimizer"]["param_groups"]
    index_of = dict(zip(group["param_names"], group["params"], strict=True))
    states = checkpoint["optimizer"]["state"]
    assert set(order) == set(index_of)
    optimizer = dict(
        state={
            i: states[index_of[name]] | dict(step=int(states[index_of[name]]["step"])) for i, name in enumerate(order)
        },
        param_groups=[
            {name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
            | dict(initial_lr=1e-5, params=list(range(len(order))))
        ],
    )
    model = {name: (checkpoint["model"] | stale)[name] for name in keys if name in checkpoint["model"] | stale}
    assert model.keys() == checkpoint["model"].keys() | stale.keys()
    config = {name: None if value == "" else value for name, value in checkpoint["config"].items()} | PATHS
    return dict(model=model, optimizer=optimizer, config=config, epoch=checkpoint["epoch"])
