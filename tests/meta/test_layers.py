"""The shape of the code: who may import whom, how long things may be, and what the server must not load."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Package to the packages that it may import. Whatever is not named here is above it or beside it.
MAY_IMPORT: dict[str, set[str]] = {
    "registry": set(),
    "policies": {"registry"},
    "observations": {"registry"},
    "specialists": {"registry"},
    "pipelines": {"registry", "policies", "observations", "specialists"},
    "router_service": {"registry", "policies", "observations", "specialists"},
}
# The one door between the two top packages, and only from inside a function.
LAZY_DOORS = {("router_service/cli.py", "pipelines")}

# Which modules may import a heavy library. Nothing that the server imports is among them.
HEAVY: dict[str, tuple[str, ...]] = {
    "torch": (
        "specialists/engine/*.py",
        "pipelines/sft.py",
        "pipelines/training_precision.py",
        "pipelines/dpo.py",
        "pipelines/distill.py",
        "pipelines/evaluate.py",
    ),
    "transformers": (
        "specialists/engine/*.py",
        "pipelines/sft.py",
        "pipelines/training_precision.py",
        "pipelines/dpo.py",
        "pipelines/distill.py",
    ),
    "peft": ("specialists/engine/*.py", "pipelines/sft.py", "pipelines/dpo.py", "pipelines/distill.py"),
    "trl": ("pipelines/sft.py", "pipelines/dpo.py"),
    "hdbscan": ("pipelines/cluster.py",),
}
NEVER_IN_THE_SERVER = {*HEAVY, "safetensors", "pandas", "scipy", "sklearn"}
NEVER_AT_THE_COMMAND_LINES_START = {*NEVER_IN_THE_SERVER, "numpy", "duckdb", "litestar"}

MAX_MODULE_LINES = 400
MAX_P90_FUNCTION_LINES = 40
MAX_PARAMETERS = 6
VAGUE_NAMES = {"utils", "util", "common", "helpers", "misc"}

# Written in two halves so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(?:" + "work|" + r"root)/\w")


@cache
def module_paths() -> tuple[Path, ...]:
    return tuple(sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> Iterator[tuple[str, int, bool, bool]]:
    """Yield (dotted name, line, inside a function, for types only) of every import."""

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[tuple[str, int, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            below_lazy = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, lazy, typing_only
            elif isinstance(child, ast.ImportFrom):
                yield absolute(path, child), child.lineno, lazy, typing_only
            else:
                yield from walk(child, below_lazy, typing_only or guarded)

    return walk(tree_of(path), lazy=False, typing_only=False)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parents = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*parents, *((node.module,) if node.module else ())])


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def tracked_files() -> list[Path]:
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_imports_go_down_only() -> None:
    wrong = []
    for path in module_paths():
        package = path.relative_to(ROOT).parts[0]
        forbidden = ({*MAY_IMPORT, "tests", "benchmarks"} - MAY_IMPORT[package]) - {package}
        for name, line, lazy, _ in imports_of(path):
            target = name.split(".")[0]
            if target in forbidden and not (lazy and (named(path), target) in LAZY_DOORS):
                wrong.append(f"{named(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_a_door_between_the_top_packages_is_found_when_it_is_not_lazy(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.b\ndef f():\n    import c\nimport d\n"
    )
    found = {name: (lazy, typing_only) for name, _, lazy, typing_only in imports_of(module)}
    assert found == {"typing": (False, False), "a.b": (False, True), "c": (True, False), "d": (False, False)}


def test_heavy_libraries_are_imported_only_where_the_table_says() -> None:
    wrong = []
    for path in module_paths():
        for name, line, _, typing_only in imports_of(path):
            library = name.split(".")[0]
            if (
                library in HEAVY
                and not typing_only
                and not any(fnmatch(named(path), place) for place in HEAVY[library])
            ):
                wrong.append(f"{named(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "banned"),
    [("router_service.cli", NEVER_AT_THE_COMMAND_LINES_START), ("router_service.app", NEVER_IN_THE_SERVER)],
)
def test_the_server_and_the_command_line_start_without_heavy_libraries(module: str, banned: set[str]) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    program = f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(banned & set(done.stdout.split())) == []


def test_no_module_is_longer_than_the_limit() -> None:
    lengths = {named(path): len(path.read_text().splitlines()) for path in module_paths()}
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES} == {}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_nine_functions_of_ten_are_short(package: str) -> None:
    lengths = sorted(
        function.end_lineno - function.lineno + 1
        for path in module_paths()
        if named(path).startswith(f"{package}/")
        for function in functions_of(path)
        if function.end_lineno is not None
    )
    if lengths:
        assert lengths[int(len(lengths) * 0.9)] < MAX_P90_FUNCTION_LINES


def test_no_function_takes_more_parameters_than_a_reader_can_hold() -> None:
    wrong = []
    for path in module_paths():
        for function in functions_of(path):
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            # click hands every option of a command to it as one parameter.
            is_command = any("command" in ast.dump(decorator) for decorator in function.decorator_list)
            if count > MAX_PARAMETERS and not is_command:
                wrong.append(f"{named(path)}:{function.lineno} {function.name} takes {count}")
    assert not wrong, "\n".join(wrong)


def test_modules_are_named_after_what_they_hold() -> None:
    places = [*module_paths(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert [named(path) for path in places if VAGUE_NAMES & {part.removesuffix(".py") for part in path.parts}] == []


def test_packages_hold_a_docstring_and_re_export_nothing() -> None:
    for path in module_paths():
        if path.name == "__init__.py":
            body = tree_of(path).body
            assert ast.get_docstring(tree_of(path)), f"{named(path)} has no docstring"
            assert len(body) == 1, f"{named(path)} holds more than its docstring"


def test_every_module_says_what_it_is_for() -> None:
    assert [named(path) for path in module_paths() if not ast.get_docstring(tree_of(path))] == []


def test_tests_are_no_packages_and_their_names_differ() -> None:
    files = list((ROOT / "tests").rglob("*.py"))
    assert [named(path) for path in files if path.name == "__init__.py"] == []
    names = [path.name for path in files if path.name.startswith("test_")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_nothing_reads_the_environment_or_a_file_at_import() -> None:
    wrong = []
    for path in module_paths():
        pending: list[ast.AST] = list(tree_of(path).body)
        while pending:
            node = pending.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
                continue
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "read_text", "read_bytes"):
                wrong.append(f"{named(path)}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                wrong.append(f"{named(path)}:{node.lineno} open")
            pending.extend(ast.iter_child_nodes(node))
    assert not wrong, "\n".join(wrong)


def test_no_file_names_a_path_of_one_machine() -> None:
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line):
                wrong.append(f"{named(path)}:{number}: {line.strip()[:80]}")
    assert not wrong, "\n".join(wrong)
