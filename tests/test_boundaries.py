"""Arrows point one way, and what belongs in one place is in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("lantern", "handlers", "services")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".js", ".css", ".html", ".lua", ".xml",
        ".properties", ".lock", ".txt", ".svg", ""}  # fmt: skip


def files(*packages: str) -> list[Path]:
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    assert found
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    """Go through all modules that are imported in `tree`, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield str(ast.literal_eval(node.args[0]))


def imports_on_loading(tree: ast.Module) -> Iterator[str]:
    """Go through the modules that are imported when this one is."""

    def runs(node: ast.AST) -> bool:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        return not is_function and not for_types

    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        waiting.extend(child for child in ast.iter_child_nodes(node) if runs(child))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def importers(packages: tuple[str, ...], *forbidden: str) -> list[str]:
    """Name the files of `packages` that import anything of `forbidden`."""
    return [
        name_of(path)
        for path in files(*packages)
        if any(name.split(".")[0] in forbidden for name in imports(parsed(path)))
    ]


def test_the_reading_of_imports_finds_them() -> None:
    source = (
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\n"
        "def f():\n    import g\n    importlib.import_module('h.i')\n"
        "class J:\n    import k\n    def l(self): import m\ntry:\n    import n\nexcept E: ...\n"
    )
    tree = ast.parse(source)
    assert set(imports(tree)) == {*"a.b c c.d e g h.i k m n".split()}
    assert set(imports_on_loading(tree)) == {"a.b", "c", "c.d", "k", "n"}


def test_the_library_knows_no_process() -> None:
    assert importers(("lantern",), "services", "handlers", "benchmarks", "tests") == []
    assert importers(("lantern",), "flask", "redis", "celery", "ts", "urllib3", "gunicorn") == []


def test_handlers_know_only_the_library() -> None:
    assert importers(("handlers",), "services", "flask", "redis", "celery", "tests") == []


def test_pictures_are_read_in_one_place() -> None:
    assert importers(CODE, "PIL") == ["lantern/animation.py", "lantern/image.py"]


def test_torchvision_is_imported_in_one_place() -> None:
    assert importers(CODE, "torchvision") == ["lantern/torchvision_import.py"]


def test_the_gateways_records_and_the_workers_application_need_no_torch() -> None:
    light = [
        *sorted((ROOT / "services" / "worker").glob("*.py")),
        *(ROOT / "services" / f"{name}.py" for name in ("jobs", "files", "settings", "clients")),
    ]
    heavy = {"torch", "lantern", "handlers", "PIL", "numpy"}
    guilty = {
        name_of(path): sorted(taken)
        for path in light
        if (taken := {n.split(".")[0] for n in imports_on_loading(parsed(path))} & heavy)
    }
    assert guilty == {}


@pytest.mark.parametrize("module", ["services.worker.app", "services.worker.tasks"])
def test_a_worker_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'PIL', 'numpy'}} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == ""


def test_the_library_does_not_print() -> None:
    guilty = [
        f"{name_of(path)}:{node.lineno}"
        for path in files("lantern")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
    ]
    assert guilty == []


def test_no_file_is_too_long() -> None:
    long = {name_of(path): len(path.read_text().splitlines()) for path in files(*CODE)}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_each_technique_has_a_file_and_a_line() -> None:
    folder = ROOT / "lantern" / "techniques"
    loaded = {
        path.stem
        for path in folder.glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef)
            and any(ast.unparse(d).startswith("technique(") for d in node.decorator_list)
            for node in parsed(path).body
        )
    }
    listed = {name.rsplit(".", 1)[-1] for name in imports(parsed(folder / "__init__.py"))}
    assert loaded
    assert listed - {"techniques"} == loaded


def test_loading_the_library_computes_nothing() -> None:
    code = (
        "import torch, lantern.run, lantern.registry; before = torch.get_rng_state();"
        "list(lantern.registry.every()); import lantern.zoo, lantern.styles.train;"
        "assert torch.equal(before, torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def tree() -> Iterator[Path]:
    """Go through the text files that are ours."""
    skipped = {".git", ".venv", ".run", "out", "build", "dist", "__pycache__"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        if path.is_file() and not hidden and not skipped & set(parts) and path.suffix in TEXT:
            yield path


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = ["/" + folder + "/" for folder in ("work", "root", "home", "Users", "tmp/lv")]
    guilty = [
        f"{name_of(path)}: {place}"
        for path in tree()
        for place in places
        if place in path.read_text(errors="replace")
    ]
    assert guilty == []
