"""What README.md, CHANGELOG.md and the tables at the edge say is what the code has."""

import ast
import re
import tomllib

import click
import pytest
from litestar.routes import HTTPRoute

from registry import errors
from registry.errors import JourneymanError
from router_service.app import create_app
from router_service.cli import COMMANDS, EXIT_DONE, EXIT_ENVIRONMENT, EXIT_GATE, EXIT_INPUT, cli
from router_service.error_responses import TABLE
from router_service.services import Services
from router_service.settings import Settings
from tests.api.registries import ECHO
from tests.meta.readme_tables import ROOT, metrics_rows, settings_rows

README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Rows of the table of settings that other programs read: the workload's folder and the engine's cache.
NOT_THE_GATEWAYS = (
    "JOURNEYMAN_DATA",
    "JOURNEYMAN_CACHE",
    "JOURNEYMAN_URL",
    "JOURNEYMAN_API_KEY",
    "JOURNEYMAN_TEACHER_URL",
    "JOURNEYMAN_TEACHER_API_KEY",
)
TOP_FOLDERS = (
    "benchmarks", "grafana", "observations", "pipelines", "policies", "registry", "router_service", "specialists",
)  # fmt: skip


def section(title):
    return re.split(r"^## ", README, flags=re.MULTILINE)[1:][titles().index(title)]


def titles():
    return re.findall(r"^## (.+)$", README, flags=re.MULTILINE)


def rows(title, first_cell):
    return [line for line in section(title).splitlines() if re.match(rf"\| `{first_cell}", line)]


def test_the_table_of_settings_is_the_code():
    shown = [
        row for row in rows("Settings", "JOURNEYMAN_") if not re.match(rf"\| `({'|'.join(NOT_THE_GATEWAYS)})`", row)
    ]
    wanted = settings_rows()
    message = "paste these rows into README.md, section Settings:\n" + "\n".join(wanted)
    assert shown == wanted, message


def test_the_table_of_metrics_is_the_code():
    wanted = metrics_rows()
    message = "paste these rows into README.md, section Metrics:\n" + "\n".join(wanted)
    assert rows("Metrics", "journeyman_") == wanted, message


def test_every_route_is_in_the_table_and_every_row_is_a_route(tmp_path):
    (tmp_path / "registry.yaml").write_text(ECHO)
    settings = Settings(registry=tmp_path / "registry.yaml", state=tmp_path / "state", load_records=False)
    served = {
        f"{method} {nameless(route.path_format)}"
        for route in create_app(settings, Services(settings, {})).routes
        # A bare ASGI route names no method; ours take POST and answer 405 to the rest.
        for method in (route.methods - {"OPTIONS"} if isinstance(route, HTTPRoute) else {"POST"})
    }
    first_cells = [row.split("|")[1] for row in rows("HTTP", "(GET|POST|PUT|PATCH|DELETE) ")]
    documented = {nameless(route) for cell in first_cells for route in re.findall(r"`([A-Z]+ /[^`]*)`", cell)}
    assert documented == served


def nameless(path):
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_every_command_is_in_the_table_with_its_subcommands():
    context = click.Context(cli)
    documented = {}
    for row in rows("Commands", "journeyman "):
        name, *rest = re.findall(r"[a-z][a-z-]*", row.split("|")[1].split('"')[0].removeprefix(" `journeyman"))
        documented.setdefault(name, set()).update(word for word in rest if word not in ("explain", "prepare"))
    groups = {name: cli.get_command(context, name) for name in COMMANDS}
    assert documented == {
        name: set(group.commands) if isinstance(group, click.Group) else set() for name, group in groups.items()
    }


def test_the_exit_codes_are_the_command_lines():
    named = f"{EXIT_DONE} done, {EXIT_GATE} a gate failed, {EXIT_INPUT} bad input, {EXIT_ENVIRONMENT} the environment"
    assert named in section("Commands")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?://|#)([^)#]+)", README))))
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).exists()


def paths_in_the_tree():
    """Every folder and module that the drawing of the tree names."""
    folder = ""
    for line in re.search(r"```\n(.*?)```", section("The tree"), re.DOTALL)[1].splitlines():
        if head := re.match(r"[\w.]+/?", line):
            yield head[0]
            folder = head[0] if head[0].endswith("/") else ""
        for name in re.findall(r"(?<=[ (])\w+(?:\.py|\.md|/)(?=\W)", line):
            yield folder + name


def paths_in_the_text():
    return re.findall(rf"\b(?:{'|'.join(TOP_FOLDERS)})/[\w/.-]*\w", README)


@pytest.mark.parametrize("path", sorted({*paths_in_the_tree(), *paths_in_the_text()}))
def test_a_path_that_it_names_is_there(path):
    assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z][a-z_-]*)", README))))
def test_a_make_target_that_it_names_is_there(target):
    benchmark = ROOT / "benchmarks" / f"{target.removeprefix('bench-')}.py"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) or (
        target.startswith("bench-") and benchmark.exists()
    )


def test_the_changelog_has_this_version():
    version = re.escape(PYPROJECT["project"]["version"])
    assert re.search(rf"^## \[?{version}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def classes(kind=JourneymanError):
    return {kind}.union(*(classes(child) for child in kind.__subclasses__() if child.__module__ == errors.__name__))


def test_the_table_of_errors_is_total_and_so_is_the_drawing_of_the_tree():
    assert set(TABLE) == classes()
    drawn = re.findall(r"^[│├└─ ]*(\w+Error)\b", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in classes())


def test_the_drawing_of_the_error_tree_hangs_every_class_under_its_base():
    above = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            above[depth] = found[2]
            assert depth == 0 or getattr(errors, found[2]).__base__.__name__ == above[depth - 1]


def marks_used():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark":
                yield node.attr


def test_every_mark_is_declared_and_every_declared_mark_is_used():
    declared = {line.partition(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    of_pytest = {"parametrize", "skipif", "skip", "xfail", "filterwarnings", "usefixtures", "asyncio"}
    assert set(marks_used()) - of_pytest == declared
