"""Kendall's τ-b and Spearman's ρ of many pairs of rows at once, in O(T log T) each.

SciPy's functions take one pair at a time and spend most of their time on checks and p-values that nobody reads here;
the values are the same to 1e-12. Axes: N rows, T places.
"""

import numpy as np


class Ranks:
    """Ranks of rows (N, T) of finite numbers.

    Attributes:
        dense: (N, T) int, 0 for the smallest value of a row, 1 for the next, …; ties share a rank.
        mean: (N, T) float64, ties share the mean of their places.
        tied: (N,) int, pairs of equal values.
    """

    def __init__(self, values):
        order = values.argsort(-1, kind="stable")
        self.tied, starts, ends, dense = _groups(np.take_along_axis(values, order, -1))
        self.dense, self.mean = np.empty_like(dense), np.empty(values.shape)
        np.put_along_axis(self.dense, order, dense, -1)
        np.put_along_axis(self.mean, order, (starts + ends) / 2, -1)


def _groups(ordered):
    """Groups of equal values in sorted rows (N, T): tied pairs (N,); first, last place and number of each's group."""
    places = np.arange(ordered.shape[1])
    new = np.ones(ordered.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    starts = np.maximum.accumulate(np.where(new, places, 0), -1)
    last = np.ones(ordered.shape, bool)
    last[:, :-1] = new[:, 1:]
    ends = np.minimum.accumulate(np.where(last, places, len(places))[:, ::-1], -1)[:, ::-1]
    return (places - starts).sum(-1), starts, ends, new.cumsum(-1) - 1


def kendall(x, y):
    """Kendall's τ-b between the rows of two `Ranks`, one of which may have a single row: (N,); 0 where undefined."""
    if x.dense.max() < y.dense.max():
        x, y = y, x  # the number of passes below is that of y's bits
    levels = int(y.dense.max()) + 1
    both = np.sort(x.dense.astype(np.int64) * levels + y.dense, -1)  # by x, and by y where x ties
    tied_in_both, *_ = _groups(both)
    T = both.shape[1]
    pairs = T * (T - 1) // 2
    concordant_minus_discordant = pairs - x.tied - y.tied + tied_in_both - 2 * _inversions(both % levels)
    untied = np.sqrt((pairs - x.tied).astype(np.float64)) * np.sqrt((pairs - y.tied).astype(np.float64))
    return _ratio(concordant_minus_discordant, untied)


def _inversions(y):
    """Pairs i < j with y[i] > y[j] in each row (N, T) of whole numbers, found at the highest bit they differ in."""
    total = np.zeros(len(y), np.int64)
    for bit in range(int(y.max()).bit_length()):
        alike = y >> (bit + 1)
        order = alike.argsort(-1, kind="stable")  # those that agree in all higher bits, side by side, in their order
        alike, ones = (np.take_along_axis(values, order, -1) for values in (alike, (y >> bit) & 1))
        before = ones.cumsum(-1) - ones  # it never falls: a group's first is the largest up to there
        new = np.ones(y.shape, bool)
        np.not_equal(alike[:, 1:], alike[:, :-1], out=new[:, 1:])
        before -= np.maximum.accumulate(np.where(new, before, 0), -1)
        total += (before * (1 - ones)).sum(-1)
    return total


def spearman(x, y):
    """Spearman's ρ between the rows of two `Ranks`, one of which may have a single row: (N,); 0 where undefined."""
    a, b = (ranks.mean - (ranks.mean.shape[1] - 1) / 2 for ranks in (x, y))
    return _ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def _ratio(above, below):
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(below.shape), where=below > 0)
