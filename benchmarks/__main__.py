"""Run benchmarks and print one table: all, or those named (`python -m benchmarks service`)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from benchmarks import attribution, durability, quality, service, style, synthesis
from benchmarks.measure import Row
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.settings import Settings

PARTS = ("attribution", "synthesis", "service", "durability")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--paintings", type=Path, help="those of the styles: judge what they paint")
    parser.add_argument(
        "--photographs", type=Path, help="to be painted for that; samples if absent"
    )
    parser.add_argument(
        "--training", type=Path, help="photographs: train ours and the classic network on them"
    )
    known = StyleLibrary(Settings().styles_path).styles()
    parser.add_argument(
        "--style", action="append", choices=sorted(known), metavar="STYLE",
        help="to be judged, or learnt, several times for several; all if absent",
    )  # fmt: skip
    chosen = parser.parse_args()
    if chosen.paintings is None and (chosen.photographs or chosen.training or chosen.style):
        parser.error("--photographs, --training and --style belong to --paintings")
    if chosen.paintings is not None:
        folders = chosen.paintings, chosen.photographs
        styles = [known[name] for name in chosen.style or known]
        if chosen.training is not None:
            _show(quality.against_classic(*folders, styles, chosen.training))
        else:
            _show(quality.against_optimisation(*folders, styles))
        if not chosen.parts:
            return
    parts = chosen.parts or PARTS
    if unknown := set(parts).difference(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(service.settings_facts())
    model = Zoo(downloads=False).load()
    if "attribution" in parts:
        _show(attribution.grad_cam(model))
        _show(attribution.cams(model))
        _show(attribution.gradients(model))
        _show(attribution.rules(model))
        _show(attribution.perturbations(model))
    if "synthesis" in parts:
        _show(synthesis.style(model))
        _show(synthesis.excitement(model))
    if not {"service", "durability"}.intersection(parts):
        return
    with service.running_stack() as (url, run_dir):
        if "service" in parts:
            _show(service.overhead(url))
            _show(service.fast_style(url))
            _show(style.rates(url))
            _show(style.crowd(url))
            _show(style.precision())
            _show(service.grad_cam_service(url, model))
        if "durability" in parts:
            _show(durability.checkpoints(model, run_dir))
            _show(durability.streams(url))


def _show(rows: Iterable[Row]) -> None:
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
