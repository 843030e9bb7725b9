"""The architecture and the house rules, as tests.

Import layers between packages stand in pyproject.toml (import-linter); here is what that
can't say. Strings that must not occur are put together here, so that they don't.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("paldia/", "services/", "bench/")
GENERATED = "paldia/api/v1/"
CORE = "paldia/core/"

MODULE_LIMIT_LINES = 300
FUNCTION_LIMIT_LINES = 70

CORE_MAY_IMPORT = {
    *("__future__", "abc", "dataclasses", "enum", "typing"),
    *("math", "collections", "collections.abc", "heapq", "itertools", "functools", "bisect"),
    *("hashlib", "numpy", "numpy.typing"),
}
# Each brings in something that is not an argument: the hash seed, an address, the world.
CORE_MAY_NOT_CALL = {"hash", "id", "open", "print", "input", "eval", "exec", "__import__"}

DRAWERS = {"util", "utils", "common", "helper", "helpers", "misc"}


@cache
def files() -> tuple[Path, ...]:
    """Give the files of the repository, those not yet added included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = sorted(Path(name) for name in listed.split("\0") if name)
    return tuple(path for path in paths if (ROOT / path).is_file())


@cache
def text_of(path: Path) -> str:
    """Give a file's text, empty if it is none."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def modules() -> tuple[Path, ...]:
    """Give the product's own modules."""
    return tuple(
        path
        for path in files()
        if path.suffix == ".py"
        and path.as_posix().startswith(PRODUCT)
        and not path.as_posix().startswith(GENERATED)
    )


@cache
def tree_of(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(text_of(path), str(path))


def core_modules() -> list[Path]:
    return [path for path in modules() if path.as_posix().startswith(CORE)]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Give each module that a module imports, with the line."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, str(node.module)


def test_there_is_something_to_look_at():
    assert {"paldia/core/errors.py", "paldia/store/base.py"} <= {str(it) for it in modules()}
    assert core_modules()


class TestCore:
    def test_it_imports_only_what_is_allowed(self):
        offences = [
            f"{path}:{line} imports {name}"
            for path in core_modules()
            for line, name in imports_of(path)
            if name not in CORE_MAY_IMPORT and not f"{name}.".startswith("paldia.core.")
        ]
        assert offences == []

    def test_it_reaches_no_clock_and_no_dice(self):
        offences = []
        for path in core_modules():
            for node in ast.walk(tree_of(path)):
                offence = None
                if isinstance(node, ast.ImportFrom) and node.module == "numpy":
                    offence = {alias.name for alias in node.names} & {"random", "datetime64"}
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    if node.value.id in {"np", "numpy"}:
                        offence = {node.attr} & {"random", "datetime64"}
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    offence = {node.func.id} & CORE_MAY_NOT_CALL
                if offence:
                    offences.append(f"{path}:{node.lineno} uses {offence.pop()}")
        assert offences == []

    def test_it_is_synchronous(self):
        asynchronous = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
        assert [
            f"{path}:{node.lineno}"
            for path in core_modules()
            for node in ast.walk(tree_of(path))
            if isinstance(node, asynchronous)
        ] == []

    def test_it_iterates_over_no_set(self):
        def is_set(node: ast.expr) -> bool:
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            return isinstance(node, ast.Set | ast.SetComp) or (
                named and node.func.id in {"set", "frozenset"}
            )

        assert [
            f"{path}:{node.iter.lineno}"
            for path in core_modules()
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.For | ast.comprehension) and is_set(node.iter)
        ] == []


class TestModules:
    def test_none_is_a_drawer_for_odds_and_ends(self):
        assert [str(path) for path in modules() if DRAWERS & {path.stem, *path.parent.parts}] == []

    def test_none_is_too_long(self):
        lengths = {str(path): len(text_of(path).splitlines()) for path in modules()}
        assert {it: n for it, n in lengths.items() if n > MODULE_LIMIT_LINES} == {}

    def test_no_function_is_too_long(self):
        assert [
            f"{path}:{node.lineno} {node.name} has {length} lines"
            for path in modules()
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LIMIT_LINES
        ] == []

    def test_each_says_what_it_is_for(self):
        assert [str(path) for path in modules() if not ast.get_docstring(tree_of(path))] == []

    def test_the_etcd_client_is_known_to_one(self):
        package = "etcd" + "3aio"
        assert [
            str(path)
            for path in modules()
            if package in {name.partition(".")[0] for _, name in imports_of(path)}
            or any(
                isinstance(node, ast.Constant) and str(node.value).startswith(f"{package}.")
                for node in ast.walk(tree_of(path))
            )
        ] == ["paldia/store/etcd.py"]


class TestEveryFile:
    def lines_with(self, pattern: str) -> list[str]:
        return [
            f"{path}:{n}: {line.strip()[:100]}"
            for path in files()
            for n, line in enumerate(text_of(path).splitlines(), 1)
            if re.search(pattern, line)
        ]

    def test_nothing_is_left_for_later(self):
        assert self.lines_with(rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'})\b") == []

    def test_packages_come_from_wherever_the_machine_is_told(self):
        hosts = [
            *("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com"),
            *("crates" + ".io", "golang" + ".org", "maven" + ".org", "ruby" + "gems.org"),
            *("ana" + "conda.org", "download." + "pytorch.org", "debian" + ".org"),
            *("ubuntu" + ".com", "index" + "-url", "find" + "-links"),
        ]
        assert self.lines_with("|".join(map(re.escape, hosts))) == []

    def test_no_path_of_one_machine_is_named(self):
        places = ["/" + "work/", "/opt/" + "wheels", "/opt/" + "pypi", "/root" + "/", "/home" + "/"]
        assert self.lines_with(rf"(?<![\w.~-])({'|'.join(places)})") == []


class TestDocuments:
    def test_links_lead_somewhere(self):
        broken = []
        for path in files():
            if path.suffix != ".md":
                continue
            prose = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(path), flags=re.DOTALL)
            for target in re.findall(r"\]\(\s*<?([^)\s>]+)", prose):
                if re.match(r"[a-z][a-z0-9+.-]*:", target):
                    continue
                name, _, anchor = target.partition("#")
                place = (ROOT / path.parent / name).resolve() if name else ROOT / path
                if not place.exists() or (anchor and anchor not in anchors_of(place)):
                    broken.append(f"{path}: {target}")
        assert broken == []


def anchors_of(path: Path) -> set[str]:
    """Give the anchors of a document's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", it.lower()).strip().replace(" ", "-") for it in headings}
