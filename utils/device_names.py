"""Names of devices, checked without torch; `utils.device` selects the device."""

import re


def check_device_name(name: str) -> str:
    """Return the name of a device.

    Raises:
        ValueError: it is not auto, cpu, cuda, or cuda:N.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d{0,2}))?", name):
        raise ValueError(f"found {ascii(name)[:60]}, expected auto, cpu, cuda or cuda:N")
    return name
