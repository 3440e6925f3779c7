"""A network goes on from maps that are put in for a layer's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lantern.cutting import replaced
from lantern.layout import MAPS


class Plain(nn.Module):
    """Does not care how many pictures there are."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.runs = 0

    def forward(self, given: Tensor) -> Tensor:
        maps: Tensor = self.late(self.early(given).relu())
        self.runs += 1
        return maps.mean((2, 3))


class Joining(Plain):
    """Joins the early layers' maps to the late ones'."""

    def forward(self, given: Tensor) -> Tensor:
        early = self.early(given).relu()
        late: Tensor = torch.cat([self.late(early), self.early(given)], 1)
        self.runs += 1
        return late.mean((2, 3))


class Asking(Plain):
    """Asks for the number of its pictures at the end, where a wrong one does not fit."""

    def forward(self, given: Tensor) -> Tensor:
        maps: Tensor = self.late(self.early(given).relu())
        self.runs += 1
        return maps.mean((2, 3)).view(len(given), 5)


class Mixing(Plain):
    """Asks for it, and makes something of a wrong one too."""

    def forward(self, given: Tensor) -> Tensor:
        maps: Tensor = self.late(self.early(given).relu())
        self.runs += 1
        return maps.mean((2, 3)).view(len(given), -1, 5).mean(1)


@pytest.mark.parametrize(
    ("kind", "first", "then"), [(Plain, 1, 1), (Joining, 1, 1), (Asking, 2, 1), (Mixing, 2, 1)]
)
@torch.inference_mode()
def test_one_picture_serves_many_maps_where_it_can(
    kind: type[Plain], first: int, then: int
) -> None:
    network, chance = kind().eval(), torch.Generator().manual_seed(0)
    picture, others = (torch.rand(n, 3, 8, 8, generator=chance) for n in (1, 3))
    maps = network.early(others)
    wanted = [network.late(one.relu()).mean((2, 3)) for one in maps.split(1)]
    with replaced(network.early, MAPS, network.forward) as run:
        for passes in (first, then):
            network.runs = 0
            made = run(picture, maps)
            torch.testing.assert_close(made[:, :5], torch.cat(wanted))
            # what failed once is not tried again; a picture that is joined early fails before a run
            assert network.runs == passes
        assert len(run(picture, maps[:1])) == 1
    assert not network.early._forward_hooks


@torch.inference_mode()
def test_what_goes_wrong_is_told() -> None:
    network = Plain().eval()
    with (
        replaced(network.early, MAPS, network.forward) as run,
        pytest.raises(RuntimeError, match="channels"),
    ):
        run(torch.rand(1, 3, 8, 8), torch.rand(3, 7, 8, 8))
