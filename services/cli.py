"""The command line: every technique on files, the stack, models, styles, training."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services import written
from services.settings import Settings, SettingsError, read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = read()
        if words == ["up"]:
            return _up(settings)
        return _parse_and_run(words, settings)
    except SettingsError as error:
        return _fail(str(error))


def _up(settings: Settings) -> int:
    """Keep the stack running; nothing heavy is imported here, so that it starts at once."""
    from services.processes import StackError
    from services.stack import Stack, run_until_signalled

    try:
        run_until_signalled(Stack(settings))
    except StackError as error:
        return _fail(str(error))
    return 0


def _parse_and_run(words: list[str], settings: Settings) -> int:
    from lantern.errors import LanternError

    parser = _parser()
    chosen = parser.parse_args(words)
    try:
        status: int = chosen.command(chosen, settings)
    except LanternError as error:
        return _fail(error.detail)
    return status


def _parser() -> argparse.ArgumentParser:
    from lantern import registry

    parser = argparse.ArgumentParser(
        prog="lantern", description="See what a vision network sees, and paint with it."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    up = commands.add_parser("up", help="run gateway, TorchServe, worker and Redis until Ctrl-C")
    up.set_defaults(command=lambda chosen, settings: _up(settings))
    for technique in registry.every():
        _add_technique(commands, technique)
    demo = commands.add_parser("demo", help="start the stack, use it on a photograph, stop it")
    demo.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    demo.set_defaults(command=_demo)
    models = commands.add_parser("models", help="list the networks, or fetch the weights of some")
    models.add_argument(
        "--fetch", nargs="+", metavar="NAME", default=[], help="download their weights"
    )
    models.set_defaults(command=_models)
    commands.add_parser("styles", help="list the trained styles").set_defaults(command=_styles)
    commands.add_parser("key", help="make an API key").set_defaults(command=_key)
    docs = commands.add_parser("docs", help="write the pages of techniques and settings")
    docs.add_argument("folder", type=Path, nargs="?", default=Path("docs"))
    docs.set_defaults(command=_docs)
    _add_training(commands)
    return parser


def _add_technique(commands: Any, technique: Any) -> None:
    from lantern.artifact import Rendering

    sub = commands.add_parser(technique.name, help=technique.summary, description=technique.summary)
    for name, slot in technique.inputs.items():
        _add_slot(sub, name, slot, by_place=name == technique.only_required)
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file to write: .jpg, .png, .webp, .gif, .json, .npz or .safetensors",
    )
    if technique.takes_model:
        sub.add_argument(
            "--model", default=technique.default_model, help="network, see `lantern models`"
        )
    if technique.takes_seed:
        sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same result")
    for kind in (technique.params_type, Rendering):
        _add_params(sub, kind)
    sub.set_defaults(command=_technique, technique=technique)


def _add_slot(sub: argparse.ArgumentParser, name: str, slot: Any, *, by_place: bool) -> None:
    """Take a required slot's picture by its place, several so if `by_place`, or behind `--slot`."""
    count = f"; {slot.least} to {slot.most} files" if slot.takes_several else ""
    if (slot.least, slot.most) == (1, 1) or by_place:
        sub.add_argument(
            f"slot_{name}", metavar=name, type=Path, nargs="+" if slot.takes_several else None,
            help=slot.description + count,
        )  # fmt: skip
        return
    sub.add_argument(
        f"--{name.replace('_', '-')}", dest=f"slot_{name}", metavar="FILE", type=Path, default=[],
        nargs="+" if slot.takes_several else None, required=slot.is_required,
        help=slot.description + count,
    )  # fmt: skip


def _add_params(sub: argparse.ArgumentParser, kind: Any) -> None:
    from lantern.run import legal_values

    for name, field in kind.model_fields.items():
        text = f"{field.description}; {legal_values(kind, name)}".replace("%", "%%")
        sub.add_argument(
            f"--{name.replace('_', '-')}", dest=f"param_{name}", metavar="V", help=text
        )


def _params(chosen: argparse.Namespace, kind: Any) -> Any:
    from lantern.run import validate

    given = {name: getattr(chosen, f"param_{name}", None) for name in kind.model_fields}
    return validate(kind, {n: v for n, v in given.items() if v is not None}, text=True)


def _technique(chosen: argparse.Namespace, settings: Settings) -> int:
    from lantern.artifact import JSON, NotAcceptable, Rendering
    from lantern.call import Call, Studio, decoded, number
    from lantern.progress import silent
    from lantern.run import check_inputs
    from lantern.uncompiled import without_compiler

    without_compiler()
    technique, output = chosen.technique, chosen.output
    rendering = _params(chosen, Rendering)
    if output is not None:
        written.check(output)
    collections, decoders = _collections(chosen), _decoders(chosen)
    pictures = {slot: _pictures(getattr(chosen, f"slot_{slot}")) for slot in technique.inputs}
    check_inputs(technique, pictures)
    inputs = number(pictures)
    call = Call(
        technique.name,
        inputs,
        params=_params(chosen, technique.params_type).model_dump(mode="json"),
        model=getattr(chosen, "model", ""),
        seed=getattr(chosen, "seed", 0),
    )
    studio = Studio.open(settings.styles_path, settings.models_path, downloads=True)
    watch = _print_progress if technique.takes_progress else silent
    result = studio.run(call, decoded(call), watch, collections=collections, decoders=decoders)
    try:
        media_type, body = written.encoded(result, output, rendering)
    except NotAcceptable as error:
        kept = written.keep(result, output, rendering)
        raise NotAcceptable(f"{error.detail}; what there is was written to {kept}") from None
    if output is None and media_type == JSON:
        print(json.dumps(json.loads(body), indent=2))
        return 0
    output = output or Path(f"{technique.name}{written.suffix_of(media_type)}")
    output.write_bytes(body)
    print(f"{output}  {_summary(result.facts)}")
    if media_type.startswith("image/"):
        for path in written.write_beside(output, result, rendering):
            print(path)
    return 0


def _collections(chosen: argparse.Namespace) -> Any:
    """Put the folder that `--collection` names among the collections, under its last name."""
    from lantern.collections.folder import open_folder
    from lantern.collections.library import BUILT_IN, Collections

    given = getattr(chosen, "param_collection", None)
    if not chosen.technique.takes_collection or given is None or given in BUILT_IN:
        return Collections()
    folder = Path(given)
    name = folder.absolute().name[:64] or "folder"
    chosen.param_collection = name
    return Collections({name: lambda: open_folder(folder, name)})


def _decoders(chosen: argparse.Namespace) -> Any:
    """Read the file that `--decoder` names, under its last name."""
    from lantern.decoders.library import Decoders, unknown

    given = getattr(chosen, "param_decoder", None)
    if not chosen.technique.takes_decoder or given is None:
        return Decoders()
    try:
        data = Path(given).read_bytes()
    except OSError:
        raise unknown() from None
    chosen.param_decoder = Path(given).name[-64:]
    return Decoders({chosen.param_decoder: lambda: data})


def _summary(facts: Mapping[str, Any]) -> str:
    shown = {
        name: facts[name]
        for name in ("class", "engine", "loss", "warnings", "seconds")
        if name in facts
    }
    return json.dumps(shown)


def _print_progress(step: Any) -> None:
    end = "\n" if step.done == step.total else ""
    print(
        f"\r{bar(step.fraction)} {step.done}/{step.total} loss {step.loss:.4f} ",
        end=end,
        file=sys.stderr,
        flush=True,
    )


def bar(fraction: float, width: int = 32) -> str:
    """Draw a progress bar."""
    full = round(fraction * width)
    return "[" + "#" * full + "." * (width - full) + "]"


def _pictures(given: Path | list[Path]) -> list[bytes]:
    return [_read(path) for path in (given if isinstance(given, list) else [given])]


def _read(path: Path) -> bytes:
    from lantern.errors import BadImage

    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"{path} cannot be read: {error.strerror}") from None


def _demo(chosen: argparse.Namespace, settings: Settings) -> int:
    from services.demo import run_demo

    return run_demo(settings, chosen.out)


def _models(chosen: argparse.Namespace, settings: Settings) -> int:
    from lantern.records import RECORDS, record
    from lantern.zoo import fetch

    for name in chosen.fetch:
        print(f"{name}: {fetch(record(name))}")
    if not chosen.fetch:
        for name, rec in RECORDS.items():
            print(f"{name:20} {rec.weights_state(downloads=True):13} {rec.licence}")
    return 0


def _styles(chosen: argparse.Namespace, settings: Settings) -> int:
    from lantern.styles.library import StyleLibrary

    for style in StyleLibrary(settings.styles_path).styles().values():
        print(f"{style.name:20} {style.title}")
    return 0


def _key(chosen: argparse.Namespace, settings: Settings) -> int:
    from services.gateway.guard import digest, new_key

    key = new_key()
    print(f"key, for the caller:            {key}")
    print(f"digest, for LANTERN_API_KEYS:   {digest(key)}")
    return 0


def _docs(chosen: argparse.Namespace, settings: Settings) -> int:
    from services.docs import write_pages

    for path in write_pages(chosen.folder):
        print(path)
    return 0


def _add_training(commands: Any) -> None:
    from lantern.styles.train_shared import TrainSharedParams

    sub = commands.add_parser("keep-style", help="add a style that train-style wrote to the store")
    sub.add_argument("file", type=Path, help="the safetensors file")
    sub.add_argument("--name", required=True, help="name of the style, as callers will write it")
    sub.add_argument("--title", default="", help="painter, title and year")
    sub.add_argument("--painting", default="", help="file it was trained on, to be kept")
    sub.add_argument("--made-by", default="", help="the command that trained it, to be kept")
    sub.set_defaults(command=_keep_style)
    sub = commands.add_parser("train-styles", help="train the network that many styles share")
    sub.add_argument("paintings", type=Path, help="folder of paintings, called as they will be")
    sub.add_argument("--photos", type=Path, required=True, help="folder of photographs to train on")
    sub.add_argument("--others", type=Path, help="folder of other pictures with a hand to be told")
    sub.add_argument("--judge", default="squeezenet1-0", help="network that judges")
    sub.add_argument("--start", help="style whose network is begun with")
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same network")
    sub.add_argument("--state", type=Path, help="file to go on from after a break")
    sub.add_argument("--preview", type=Path, help="picture to rewrite every 50 steps")
    _add_params(sub, TrainSharedParams)
    sub.set_defaults(command=_train_styles)


def _keep_style(chosen: argparse.Namespace, settings: Settings) -> int:
    from services.training import keep_style

    style = keep_style(
        settings, chosen.file, name=chosen.name, title=chosen.title or chosen.name,
        painting=chosen.painting, command=chosen.made_by,
    )  # fmt: skip
    print(f"{style.name} is in {settings.styles_path}")
    return 0


def _train_styles(chosen: argparse.Namespace, settings: Settings) -> int:
    from lantern.styles.train_shared import TrainSharedParams
    from services.training import Pictures, train_styles

    styles = train_styles(
        settings, _params(chosen, TrainSharedParams),
        Pictures(chosen.paintings, chosen.photos, chosen.others),
        judge=chosen.judge, seed=chosen.seed, start=chosen.start, state=chosen.state,
        preview=chosen.preview, command=" ".join(["lantern", *sys.argv[1:]]),
        progress=_print_progress,
    )  # fmt: skip
    print(f"{', '.join(style.name for style in styles)} are in {settings.styles_path}")
    return 0


def _fail(message: str) -> int:
    print(f"lantern: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
