"""PyTorch's options that every command sets."""

import contextlib

import torch


def _read_options():
    return dict(
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        convolution_tf32=torch.backends.cudnn.allow_tf32,
        cudnn_attention=torch.backends.cuda.cudnn_sdp_enabled(),
    )


def _set_options(float32_matmul_precision, convolution_tf32, cudnn_attention):
    torch.set_float32_matmul_precision(float32_matmul_precision)
    torch.backends.cudnn.allow_tf32 = convolution_tf32
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


@contextlib.contextmanager
def expect_device_options(tf32=False):
    """Assert that the block sets the options of `tf32`, which have other values before it."""
    before = _read_options()
    _set_options("medium", not tf32, True)
    try:
        yield
        precision = "high" if tf32 else "highest"
        expected = dict(float32_matmul_precision=precision, convolution_tf32=tf32, cudnn_attention=False)
        assert _read_options() == expected
    finally:
        _set_options(*before.values())
