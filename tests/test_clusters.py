"""Principal components and k-means against brute force and another decomposition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lantern.collections.clusters import clusters, principal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(points: Tensor, labels: tuple[int, ...]) -> float:
    """Return the sum of squared distances to the means of the groups."""
    groups = [points[[n for n, at in enumerate(labels) if at == label]] for label in set(labels)]
    return sum(float((group - group.mean(0)).square().sum()) for group in groups)


def of_groups(found: tuple[Tensor, ...], count: int) -> tuple[int, ...]:
    labels = [-1] * count
    for label, places in enumerate(found):
        for place in places.tolist():
            assert labels[place] == -1, "a point is in two groups"
            labels[place] = label
    return tuple(labels)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_grouping_is_tighter(seed: int) -> None:
    points = torch.randn(7, 2, generator=seeded(seed), dtype=torch.float64)
    found = clusters(points, 3, seeded(seed))
    least = min(spread(points, labels) for labels in itertools.product(range(3), repeat=7))
    assert spread(points, of_groups(found, 7)) == pytest.approx(least, rel=1e-9)


def test_groups_that_are_apart_are_found_the_largest_first_and_the_nearest_member_first() -> None:
    centres = torch.tensor([[0.0, 0, 9], [9, 0, 0], [0, 9, 0]])
    truth = torch.tensor([2, 0, 1, 0, 2, 0, 0, 1, 2])
    points = centres[truth] + torch.rand(9, 3, generator=seeded())
    found = clusters(principal(points, 50), 3, seeded())
    assert [sorted(group.tolist()) for group in found] == [[1, 3, 5, 6], [0, 4, 8], [2, 7]]
    for group in found:
        distances = (points[group] - points[group].mean(0)).norm(dim=1)
        assert torch.allclose(distances, distances.sort().values, atol=1e-5)


def test_there_are_no_more_groups_than_points_that_differ() -> None:
    points = torch.tensor([[0.0], [1], [1], [1]])
    assert [g.tolist() for g in clusters(points, 4, seeded())] == [[1, 2, 3], [0]]
    for same in (torch.ones(3, 5), torch.ones(1, 5)):
        flat = principal(same, 50)
        assert flat.shape == (len(same), 0)
        assert [g.tolist() for g in clusters(flat, 4, seeded())] == [list(range(len(same)))]


def test_chance_is_drawn_from_the_generator_alone_and_as_often() -> None:
    points, generators = torch.randn(12, 3, generator=seeded()), [seeded(5) for _ in range(3)]
    first, second = (clusters(points, 4, generator) for generator in generators[:2])
    assert all(map(torch.equal, first, second))
    clusters(points[:1], 4, generators[2])
    assert len({str(generator.get_state().tolist()) for generator in generators}) == 1


def test_principal_coordinates_are_those_of_the_covariance() -> None:
    points = torch.randn(30, 6, generator=seeded()) * torch.tensor([5.0, 4, 3, 2, 1, 0])
    values, vectors = np.linalg.eigh(np.cov(points.double().numpy().T))
    expected = (points.double() - points.double().mean(0)).numpy() @ vectors[:, ::-1][:, :2]
    found = principal(points, 2).numpy()
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-6)
    assert np.allclose(found.var(0, ddof=1), values[::-1][:2])
    assert principal(points, 50).shape == (30, 5)  # nothing is kept of what never changes
    whole = torch.cdist(principal(points, 50), principal(points, 50))
    assert torch.allclose(whole, torch.cdist(points.double(), points.double()), atol=1e-6)
