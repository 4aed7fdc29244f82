"""TorchScript archives of parameters, as OpenAI publishes CLIP."""

import torch


def write_torchscript(path, state):
    """Write a TorchScript archive with the given parameters and the image size as a buffer, as in OpenAI's files."""
    holder = torch.nn.Identity()
    for name, value in state.items():
        *modules, last = name.split(".")
        parent = holder
        for module in modules:
            if not hasattr(parent, module):
                parent.add_module(module, torch.nn.Module())
            parent = getattr(parent, module)
        parent.register_parameter(last, torch.nn.Parameter(value))
    holder.register_buffer("input_resolution", torch.tensor(64))
    torch.jit.trace(holder, torch.zeros(1)).save(str(path))
