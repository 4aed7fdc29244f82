"""Position tables for sequences longer than the table."""

import torch.nn.functional as F


def position_rows(table, length):
    """Give the positions of a sequence.

    Args:
        table: (P, width) learned positions.
        length: rows needed.
    Returns:
        (length, width): the first rows of the table, or, where it is too short, all of it stretched bicubically.
    """
    if length <= len(table):
        return table[:length]
    image = table.t()[None, :, :, None]  # (1, width, P, 1)
    return F.interpolate(image, (length, 1), mode="bicubic", align_corners=False)[0, :, :, 0].t()
