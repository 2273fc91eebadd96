"""The shape of the tree, as a test: what ruff and import-linter do not hold, and reviewers should not have to.

Each rule walks the files that git knows or would take up, generated code left out, and reports `file:line` for all that
break it.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES_MAX = 400
TEST_MODULE_LINES_MAX = 500  # a test module is a list of promises about one thing, read one at a time
FUNCTION_LINES_MAX = 70
VAGUE_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
# Joined, so that this file does not break its own rule.
MACHINE_PATHS = re.compile(
    "|".join(
        re.escape("".join(parts))
        for parts in (
            ("/wo", "rk/"),
            ("/ro", "ot/"),
            ("/opt/", "pypi"),
            ("/opt/", "wheels"),
            ("pypi", ".org"),
            ("python", "hosted"),
        )
    )
)
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", r"\bX" + r"XX\b")))
EXCUSED = re.compile(r"# (tidy:|noqa: BLE001) +\w+ \w+")
"""An exception states its reason on the same line: `# tidy: a random instant is what is tested`."""
Rule = Callable[[ast.Module], Iterator[tuple[int, str]]]


def tree_files() -> list[Path]:
    """Return what git tracks or would take up, without generated code."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    paths = (ROOT / name for name in sorted(set(listed.split("\0"))) if name)
    return [path for path in paths if path.is_file() and "x0d/v1" not in path.as_posix().removesuffix(".proto")]


FILES = tree_files()
MODULES = [path for path in FILES if path.suffix == ".py"]


def text_of(path: Path) -> str:
    """Return a file's text; binary files have none."""
    return path.read_bytes().decode(errors="ignore")


def broken(rule: Rule, modules: list[Path]) -> list[str]:
    """Apply a rule to modules and return what breaks it, as `file:line reason`; EXCUSED lines are left out."""
    found = []
    for path in modules:
        text = path.read_text()
        lines = text.splitlines()
        for line, reason in rule(ast.parse(text, filename=str(path))):
            if not EXCUSED.search(lines[line - 1]):
                found.append(f"{path.relative_to(ROOT)}:{line} {reason}")
    return found


def below(*folders: str) -> list[Path]:
    """Return the modules in these folders of the tree."""
    return [
        path for path in MODULES if path.is_relative_to(ROOT / folders[0]) or path.parts[len(ROOT.parts)] in folders
    ]


def long_functions(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Report functions longer than FUNCTION_LINES_MAX, decorators and docstring counted."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines"


def swallowed_exceptions(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Report handlers of every exception that do not raise it again."""
    for node in ast.walk(module):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "everything" if node.type is None else ast.unparse(node.type)
        is_broad = re.search(r"\b(everything|Exception|BaseException)\b", caught) is not None
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if is_broad and not raises:
            yield node.lineno, f"catches {caught} and goes on: name the narrowest type"


def sleeps(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Report calls that wait for time to pass instead of a condition; asyncio.sleep(0) only yields."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}:
            arguments = [ast.unparse(argument) for argument in node.args]
            if arguments != ["0"]:
                yield node.lineno, "sleeps: advance a clock, or await a condition"


def mocks(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Report the import of unittest.mock: fakes hold state and pass the contract test of the real thing."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom) and re.search(
            r"\bunittest(\.| import )mock\b", ast.unparse(node)
        ):
            yield node.lineno, "mocks"


def chance(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Report module-level random functions: chance comes from a `random.Random(seed)` that is passed in."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if re.fullmatch(r"random\.\w+", name) and name not in {"random.Random", "random.SystemRandom"}:
                yield node.lineno, f"{name}: pass a random.Random in"


def lines_max(path: Path) -> int:
    """Return how long a module may be."""
    return TEST_MODULE_LINES_MAX if path.name.startswith("test_") else MODULE_LINES_MAX


def test_modules_hold_one_idea() -> None:
    """No module is longer than its limit."""
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert [] == [f"{path.relative_to(ROOT)} has {n} lines" for path, n in lengths.items() if n > lines_max(path)]


def test_functions_fit_a_page() -> None:
    """No function is longer than FUNCTION_LINES_MAX lines."""
    assert [] == broken(long_functions, MODULES)


def test_no_exception_is_swallowed() -> None:
    """Whoever catches every exception raises it again."""
    assert [] == broken(swallowed_exceptions, MODULES)


def test_tests_do_not_sleep() -> None:
    """A test advances a clock or waits for a condition."""
    assert [] == broken(sleeps, [path for path in MODULES if path.name.startswith("test_")])


def test_nothing_is_mocked() -> None:
    """Fakes with state, not mocks."""
    assert [] == broken(mocks, MODULES)


def test_chance_is_passed_in() -> None:
    """The daemon draws no number that a test could not repeat."""
    assert [] == broken(chance, below("daemon"))


def test_every_module_tells_its_model() -> None:
    """A module opens with a docstring; only an __init__ without code may be empty."""
    silent = [
        path for path in MODULES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert [] == [str(path.relative_to(ROOT)) for path in silent]


def test_every_test_tells_its_promise() -> None:
    """A test opens with a sentence of promised behaviour."""

    def silent(module: ast.Module) -> Iterator[tuple[int, str]]:
        for node in ast.walk(module):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            if not ast.get_docstring(node):
                yield node.lineno, f"{node.name} has no docstring"

    assert [] == broken(silent, [path for path in MODULES if path.name.startswith("test_")])


def test_every_script_tells_its_use() -> None:
    """A script's second line is a comment or a docstring that says what it does."""
    scripts = [path for path in FILES if text_of(path).startswith("#!")]
    assert [] == [str(p.relative_to(ROOT)) for p in scripts if not re.match(r'#!.*\n(#|""").*\w', text_of(p))]


def test_names_say_what_a_thing_is() -> None:
    """No module or folder is called utils or the like."""
    assert [] == [
        str(path.relative_to(ROOT)) for path in MODULES if VAGUE_NAMES & {*path.relative_to(ROOT).parts, path.stem}
    ]


def test_nothing_names_the_machine_it_was_written_on() -> None:
    """No path of a developer's machine and no package registry is in the tree: it is usable anywhere."""
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for path in FILES
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert [] == found


def test_nothing_is_left_for_later() -> None:
    """Notes to oneself are issues, not comments."""
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for path in FILES
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if UNFINISHED.search(line) and path.suffix != ".lock"
    ]
    assert [] == found


@pytest.mark.parametrize(
    ("rule", "source", "count"),
    [
        (swallowed_exceptions, "try:\n    f()\nexcept Exception:\n    pass\n", 1),
        (swallowed_exceptions, "try:\n    f()\nexcept:\n    pass\n", 1),
        (swallowed_exceptions, "try:\n    f()\nexcept BaseException:\n    undo()\n    raise\n", 0),
        (swallowed_exceptions, "try:\n    f()\nexcept OSError:\n    pass\n", 0),
        (sleeps, "time.sleep(1)\nawait_it()\n", 1),
        (sleeps, "async def f():\n    await asyncio.sleep(0)\n", 0),
        (mocks, "from unittest import mock\n", 1),
        (chance, "random.random()\nrandom.Random(5).random()\n", 1),
        (long_functions, "def f():\n" + "    pass\n" * 70, 1),
        (long_functions, "def f():\n" + "    pass\n" * 69, 0),
    ],
)
def test_rules_find_what_they_look_for(rule: Rule, source: str, count: int) -> None:
    """Each rule reports what breaks it and nothing else."""
    assert count == len(list(rule(ast.parse(source))))


def test_x0ctl_is_kept_from_every_adapter_of_the_transport() -> None:
    """Each module of x0d.transport but the connector is named where import-linter keeps x0ctl away from it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (forbidden,) = [each["forbidden_modules"] for each in contracts if each.get("source_modules") == ["x0ctl"]]
    found = {f"x0d.transport.{file.stem}" for file in (ROOT / "daemon/x0d/transport").glob("*.py")}
    assert found - {"x0d.transport.__init__", "x0d.transport.connector"} == {
        name for name in forbidden if name.startswith("x0d.transport.")
    }
