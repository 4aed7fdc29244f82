"""Optimizer states of checkpoints, matched to a run's parameters by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")


def match_optimizer_state(
    saved: Mapping[str, Any], model_names: Sequence[str], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Arrange the optimizer state of a checkpoint for an optimizer whose parameters may have another order.

    Steps and moments are those of the checkpoint; all hyperparameters are those of the optimizer.

    Args:
        saved: `state_dict()` of an Adam or AdamW. Without `param_names` in its groups, as in published checkpoints, its
            parameters are in the order of the model's.
        model_names: names in the checkpoint's model, in its order.
        optimizer: built from `named_parameters()`.
    Returns:
        State dict for `optimizer.load_state_dict`. Its tensors are copies; an integer step is converted to a tensor.
    Raises:
        ValueError: parameters are missing, unknown, or have moments of another shape.
    """
    groups = optimizer.state_dict()["param_groups"]
    saved_groups = saved["param_groups"]
    if len(saved_groups) != len(groups):
        raise ValueError(f"found {len(saved_groups)} parameter groups, expected {len(groups)}")
    saved_indices: dict[str, int] = {}
    for saved_group, group in zip(saved_groups, groups):
        own_names = set(group["param_names"])
        names = saved_group.get("param_names") or [name for name in model_names if name in own_names]
        if len(names) != len(saved_group["params"]):
            raise ValueError(f"found {len(saved_group['params'])} parameters, expected {len(names)}")
        saved_indices |= dict(zip(names, saved_group["params"]))
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"])
    }
    if different := sorted(parameters.keys() ^ saved_indices.keys()):
        raise ValueError(f"{different[0]}: {'missing' if different[0] in parameters else 'unknown parameter'}")
    indices = {name: i for group in groups for name, i in zip(group["param_names"], group["params"])}
    state = {
        indices[name]: _copy_state(name, saved["state"][saved_indices[name]], parameter)
        for name, parameter in parameters.items()
        if saved_indices[name] in saved["state"]  # there is none before a parameter's first gradient
    }
    return dict(state=state, param_groups=groups)


def _copy_state(name: str, saved: Mapping[str, Any], parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Copy step and moments of a parameter."""
    for moment in _MOMENTS:
        shape = tuple(saved[moment].shape)
        if shape != parameter.shape:
            raise ValueError(f"{name}: {moment}: found {shape}, expected {tuple(parameter.shape)}")
    return dict(step=torch.tensor(float(saved["step"]))) | {moment: saved[moment].clone() for moment in _MOMENTS}
