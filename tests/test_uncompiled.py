"""torch's compiler stays away from who compiles nothing, and is there for who does."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIMIZERS = """
import sys, torch
from lantern.uncompiled import without_compiler
{first}
def made(kind, **options):
    torch.manual_seed(0)
    pixels = torch.randn(4, 4, requires_grad=True)
    optimizer = kind([pixels], **options)
    def closure():
        optimizer.zero_grad()
        loss = (pixels.cos() * torch.arange(16.0).view(4, 4)).sum()
        loss.backward()
        return loss
    for _ in range(5):
        optimizer.step(closure)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(closure)
    return pixels.detach().numpy().tobytes().hex()
print(made(torch.optim.Adam), made(torch.optim.NAdam), made(torch.optim.LBFGS))
print("torch._dynamo.eval_frame" in sys.modules)
"""

COMPILES = """
import inspect, sys, torch
from lantern.uncompiled import without_compiler
without_compiler()
inspect.getmodule(without_compiler)
assert "torch._dynamo.eval_frame" not in sys.modules
{how}
double = torch.compile(lambda x: x * 2, backend="eager")
assert double(torch.ones(2)).tolist() == [2, 2]
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.__path__
"""


def python(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_optimizers_work_as_before_and_do_not_load_it() -> None:
    with_it, without = (
        python(OPTIMIZERS.format(first=first)) for first in ("", "without_compiler()")
    )
    assert (with_it[1], without[1]) == ("True", "False")
    assert with_it[0] == without[0]


@pytest.mark.parametrize(
    "how",
    [
        "",
        "from torch._dynamo import config; import torch._dynamo.config; torch._dynamo.reset()",
    ],
)
def test_who_compiles_has_the_compiler(how: str) -> None:
    python(COMPILES.format(how=how))
