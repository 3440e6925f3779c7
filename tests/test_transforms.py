"""Movements of pictures: what they do, that chance is the generator's, and each sample's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lantern.optimize.transforms import Movement, moved, windows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 20, 30, generator=generator())


def affine(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_no_movement_changes_nothing(pixels: Tensor) -> None:
    still = Movement().draw(2, (20, 30), generator())
    assert torch.allclose(moved(pixels, still, (20, 30)), pixels, atol=1e-5)


def test_a_shift_is_in_pixels(pixels: Tensor) -> None:
    # the map says where each place looks: three columns to the right, two rows up
    shift = affine((1, 0, 2 * 3 / 30), (0, 1, -2 * 2 / 20))
    seen = moved(pixels[:1], shift, (20, 30))
    assert torch.allclose(seen[..., 2:, :-3], pixels[:1, :, :-2, 3:], atol=1e-5)


@pytest.mark.parametrize("size", [(20, 30), (24, 24)])
def test_jitter_stays_within_its_bound_and_uses_all_of_it(size: tuple[int, int]) -> None:
    drawn = Movement(jitter=5).draw(2000, size, generator())
    right, down = drawn[:, 0, 2] * size[1] / 2, drawn[:, 1, 2] * size[0] / 2
    for shift in (right, down):
        assert 4.9 < shift.abs().max() <= 5
        assert abs(shift.mean()) < 0.3
    assert torch.allclose(drawn[:, :, :2], torch.eye(2).expand(2000, 2, 2))


def test_a_turn_by_ninety_degrees_is_a_rotation_of_the_array() -> None:
    pixels = torch.rand(1, 3, 16, 16, generator=generator())
    quarter = affine((0, -1, 0), (1, 0, 0))
    assert torch.allclose(moved(pixels, quarter, (16, 16)), pixels.rot90(1, (2, 3)), atol=1e-5)


def test_turns_keep_shapes_in_pictures_that_are_not_square() -> None:
    drawn = Movement(rotate=30).draw(500, (20, 40), generator())
    # in pixels the map must be a rotation: its columns of length one, at right angles
    to_pixels = torch.diag(torch.tensor([20.0, 10.0]))
    turn = to_pixels @ drawn[:, :, :2] @ torch.linalg.inv(to_pixels)
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(2).expand(500, 2, 2), atol=1e-5)
    angles = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert 29 < angles.abs().max() <= 30.01


def test_scale_grows_and_shrinks_by_its_share() -> None:
    drawn = Movement(scale=0.25).draw(2000, (20, 20), generator())
    zoom = 1 / drawn[:, 0, 0]
    assert 1.24 < zoom.max() <= 1.2501
    assert 1 / 1.2501 <= zoom.min() < 1 / 1.24


def test_a_mirrored_picture_is_mirrored() -> None:
    drawn = Movement(mirror=True).draw(400, (8, 8), generator())
    share = (drawn[:, 0, 0] < 0).float().mean()
    assert 0.4 < share < 0.6
    pixels = torch.rand(1, 3, 8, 8, generator=generator())
    flipped = drawn[drawn[:, 0, 0] < 0][:1]
    assert torch.allclose(moved(pixels, flipped, (8, 8)), pixels.flip(3), atol=1e-5)


def test_windows_lie_inside_the_picture_and_have_their_share() -> None:
    drawn = windows(2000, (0.25, 0.5), generator())
    side, x, y = drawn[:, 0, 0], drawn[:, 0, 2], drawn[:, 1, 2]
    assert 0.25 <= side.min() < 0.26
    assert 0.49 < side.max() <= 0.5
    for centre in (x, y):
        assert ((centre.abs() + side) <= 1 + 1e-6).all()


def test_every_sample_moves_by_itself_and_by_the_generator_alone(pixels: Tensor) -> None:
    before = torch.get_rng_state()
    movement = Movement(3, 0.1, 10, mirror=True)
    drawn = movement.draw(2, (20, 30), generator(4))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(movement.draw(2, (20, 30), generator(4)), drawn)
    assert not torch.equal(movement.draw(2, (20, 30), generator(5)), drawn)
    assert torch.equal(torch.get_rng_state(), before)
    together = moved(pixels, drawn, (20, 30))
    apart = [moved(pixels[n : n + 1], drawn[n : n + 1], (20, 30)) for n in range(2)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)


def test_gradients_pass_through(pixels: Tensor) -> None:
    pixels.requires_grad_()
    drawn = Movement(2, 0.1, 5).draw(2, (20, 30), generator())
    (gradient,) = torch.autograd.grad(moved(pixels, drawn, (10, 15)).sum(), pixels)
    assert gradient.abs().sum() > 0
