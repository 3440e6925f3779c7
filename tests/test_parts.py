"""Looks at pictures are parted, and their gradients come together again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lantern.optimize.parts import Few, by


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_every_look_is_at_its_picture_however_many_pass_together(most: int) -> None:
    pictures, parts = noise(5, 3, 2, 2), by(most, 5, 4)
    looks = torch.cat([few.looks(few.of(pictures)) for few in parts])
    assert torch.equal(looks, pictures.repeat_interleave(4, 0))
    assert torch.equal(torch.cat([few.drawn(looks) for few in parts]), looks)


@pytest.mark.usefixtures("two_threads")
def test_the_gradient_of_many_looks_is_the_same_every_time() -> None:
    picture, weights = noise(1, 3, 64, 64).requires_grad_(), noise(64, 3, 64, 64)
    first, *others = (
        torch.autograd.grad((Few(0, 64, 64).looks(picture) * weights).sum(), picture)[0]
        for _ in range(20)
    )
    assert all(torch.equal(first, other) for other in others)
