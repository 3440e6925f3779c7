"""Which pictures of a set are alike: principal components and k-means."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

# How often k-means begins anew, and the rounds of each attempt.
ATTEMPTS, ROUNDS = 20, 30
Floats = np.ndarray[Any, np.dtype[np.float64]]


def principal(features: Tensor, most: int) -> Tensor:
    """Return the coordinates of features `[N,C]` along their first principal components.

    They are `[N,K]`, K at most `most`, N and C; components without variance are left out.
    """
    centred = features.double() - features.double().mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(most, int((s > 1e-9 * s[:1].clamp_min(1e-12)).sum()))
    coordinates: Tensor = u[:, :kept] * s[:kept]
    return coordinates


def clusters(points: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Split points `[N,K]` into at most `count` clusters, the largest first.

    Each is the places of its points, those nearest to its centre first. There are no more clusters
    than points that differ. The generator is drawn from once, whatever the points.

    Source: Arthur and Vassilvitskii 2007, "k-means++", the best of several attempts by the sum of
    squared distances.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    array = points.double().cpu().numpy()
    count = min(count, len(np.unique(array, axis=0)))
    if count == 1:  # of points that agree in everything there may be no coordinates either
        return (torch.arange(len(points)),)
    random = np.random.default_rng(seed)
    found = min(
        (_attempt(array, count, random) for _ in range(ATTEMPTS)), key=lambda attempt: attempt[0]
    )
    _, labels, distances = found
    groups = [np.flatnonzero(labels == label) for label in range(count)]
    groups = sorted((g for g in groups if len(g)), key=lambda g: (-len(g), g[0]))
    nearest = (group[np.argsort(distances[group], kind="stable")] for group in groups)
    return tuple(torch.from_numpy(group) for group in nearest)


def _attempt(
    points: Floats,
    count: int,
    random: np.random.Generator,
) -> tuple[
    float, np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.float64]]
]:
    """Return the sum of squared distances, and each point's cluster and squared distance."""
    from scipy.cluster.vq import kmeans2  # not with the techniques: it takes half a second

    with warnings.catch_warnings():
        # a cluster may lose all its points; another attempt will do better, or it is left out
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(points, count, iter=ROUNDS, minit="++", rng=random)
    squares = ((points[:, None] - centres[None]) ** 2).sum(2)
    labels, distances = squares.argmin(1), squares.min(1)
    return float(distances.sum()), labels, distances
