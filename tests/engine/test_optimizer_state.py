"""Moments are matched to parameters by name, in checkpoints of this and of the published code."""

import pytest
import torch

from engine.optimizer_state import match_optimizer_state


def build_optimizer(model):
    return torch.optim.AdamW(model.named_parameters(), lr=0.1, fused=True)


class Layers(torch.nn.Module):
    """Linear layers that are registered in a given order."""

    def __init__(self, sizes):
        super().__init__()
        for name, size in sizes.items():
            self.add_module(name, torch.nn.Linear(4, size))

    def forward(self, x):
        return sum(layer(x).square().mean() for layer in self.children())


SIZES = dict(tt=2, ca=3, head=5)


def train_layers(sizes=SIZES, steps=2):
    """Return a model and its optimizer after a few steps."""
    torch.manual_seed(0)
    model = Layers(sizes)
    optimizer = build_optimizer(model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 4)).backward()
        optimizer.step()
    return model, optimizer


def moments_by_name(optimizer):
    (group,) = optimizer.param_groups
    return {name: optimizer.state[parameter] for name, parameter in zip(group["param_names"], group["params"])}


def without_names(saved, step=int):
    """Return an optimizer's state dict as PyTorch 1.10 saved it: without names, and with integer steps."""
    groups = [
        {name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad", "params")}
        for group in saved["param_groups"]
    ]
    return dict(state={i: s | dict(step=step(s["step"])) for i, s in saved["state"].items()}, param_groups=groups)


@pytest.mark.parametrize("named", [True, False])
def test_moments_are_matched_by_name(named):
    """The parameters of the checkpoint have another order, in which equal shapes stand at other places."""
    saved_model, saved_optimizer = train_layers(dict(tt=2, head=5, ca=3))
    saved = saved_optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"][2] == "head.weight"
    if not named:
        saved = without_names(saved)
    model = Layers(SIZES)
    optimizer = build_optimizer(model)
    optimizer.load_state_dict(match_optimizer_state(saved, list(saved_model.state_dict()), optimizer))
    expected = moments_by_name(saved_optimizer)
    for name, state in moments_by_name(optimizer).items():
        assert state.keys() == expected[name].keys()
        assert all(torch.equal(state[key], value) for key, value in expected[name].items()), name
        assert state["step"].dtype == torch.float32 and float(state["step"]) == 2
    model.load_state_dict(saved_model.state_dict())
    for network, its_optimizer in ((model, optimizer), (saved_model, saved_optimizer)):  # the fused step accepts them
        its_optimizer.zero_grad()
        network(torch.ones(1, 4)).backward()
        its_optimizer.step()
    assert all(torch.equal(value, saved_model.state_dict()[name]) for name, value in model.state_dict().items())


def test_hyperparameters_are_those_of_the_run():
    saved = train_layers()[1].state_dict()
    saved["param_groups"][0] |= dict(weight_decay=0.7, fused=None, foreach=True, lr=9.0)
    model = Layers(SIZES)
    optimizer = build_optimizer(model)
    before = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(match_optimizer_state(saved, list(model.state_dict()), optimizer))
    assert optimizer.state_dict()["param_groups"] == before and before[0]["fused"] is True


def test_groups_without_names_are_in_the_order_of_the_model_each():
    """As those of VT-CLIP, whose `logit_scale` is a group of its own."""

    def build_grouped(model):
        named = list(model.named_parameters())
        groups = [dict(params=named[:2] + named[3:]), dict(params=[named[2]], weight_decay=0.0)]
        return torch.optim.AdamW(groups, lr=0.1)

    model = Layers(SIZES)
    optimizer = build_grouped(model)
    model(torch.ones(1, 4)).backward()
    optimizer.step()
    other = build_grouped(Layers(SIZES))
    saved = without_names(optimizer.state_dict())
    other.load_state_dict(match_optimizer_state(saved, list(model.state_dict()), other))
    expected, actual = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert all(torch.equal(actual[i]["exp_avg"], state["exp_avg"]) for i, state in expected.items())


def drop_name(saved):
    saved["param_groups"][0]["param_names"][1] = "tt.extra"


def drop_parameter(saved):
    saved["param_groups"][0]["params"].pop()


def transpose_moment(saved):
    saved["state"][2]["exp_avg_sq"] = saved["state"][2]["exp_avg_sq"].T


@pytest.mark.parametrize(
    ("named", "change", "message"),
    [
        (True, drop_name, r"^tt.bias: missing$"),
        (True, drop_parameter, r"^found 5 parameters, expected 6$"),
        (False, drop_parameter, r"^found 5 parameters, expected 6$"),
        (True, transpose_moment, r"^ca.weight: exp_avg_sq: found \(4, 3\), expected \(3, 4\)$"),
        (False, transpose_moment, r"^ca.weight: exp_avg_sq: found \(4, 3\), expected \(3, 4\)$"),
        (True, lambda saved: saved["param_groups"].append({}), r"^found 2 parameter groups, expected 1$"),
    ],
)
def test_unsuitable_states_raise(named, change, message):
    model, optimizer = train_layers()
    saved = optimizer.state_dict()
    saved = saved if named else without_names(saved)
    change(saved)
    with pytest.raises(ValueError, match=message):
        match_optimizer_state(saved, list(model.state_dict()), build_optimizer(Layers(SIZES)))


@pytest.mark.parametrize("version", ["vtsum_blip_tt", "vtsum_blip_tt_ca"])
def test_published_order_is_that_of_its_model_entry(golden, small_model, version):
    """`named_parameters()` of the published code = keys of its state dict that are parameters of this project's model.

    The golden state dict is that of TT+CA with 12 decoder layers; it has tied weights and a stale buffer, too.
    """
    published_order = golden("optimizer_param_order.json")[version]
    names = [name for name, _ in small_model(version).named_parameters()]
    assert sorted(names) == sorted(published_order)
    keys = [*golden("state_dict_keys_full.json")]
    assert [name for name in keys if name in set(names)] == published_order
    if version == "vtsum_blip_tt":
        assert names == published_order
    else:
        assert names != published_order and published_order[-1].startswith("local_atten_head.")
