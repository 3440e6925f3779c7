"""Run every benchmark and print one table."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import attribution, durability, service, synthesis
from benchmarks.measure import Row
from lantern.zoo import Zoo


def main() -> None:
    """Measure and print."""
    print(service.settings_facts())
    model = Zoo(downloads=False).load()
    _show(attribution.grad_cam(model))
    _show(attribution.gradients(model))
    _show(attribution.perturbations(model))
    _show(synthesis.style(model))
    _show(synthesis.excitement(model))
    with service.running_stack() as (url, run_dir):
        _show(service.overhead(url))
        _show(service.fast_style(url))
        _show(service.grad_cam_service(url, model))
        _show(durability.checkpoints(model, run_dir))
        _show(durability.streams(url))


def _show(rows: Iterable[Row]) -> None:
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
