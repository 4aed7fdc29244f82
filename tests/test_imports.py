"""Which package may import which: one direction, no cycles, and nobody imports a script."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "utils": set(),
    "data": {"utils"},
    "models": {"utils"},
    "metrics": {"utils"},
    "engine": {"utils", "data", "models", "metrics"},
    "summary": {"utils", "data", "models", "metrics", "engine"},
    "report": {"utils", "data", "metrics", "engine"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
EVERYTHING = ("data/mini/", "benchmarks/", "tests/")  # may import all


def sources():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True)
    return [path for path in listed.stdout.decode().split() if (ROOT / path).is_file()]


def scripts():
    """Modules that are only run: scripts, a package's `__main__.py`, modules for `python -m` that nobody imports."""
    graph, modules = imports(), modules_of_project()
    imported = {other for name, others in graph.items() for other in others if not name.startswith("tests")}
    return {
        name
        for name, path in modules.items()
        if "/" not in path
        or path.endswith("/__main__.py")
        or (name not in imported and 'if __name__ == "__main__":' in (ROOT / path).read_text())
    }


def imported_modules(tree):
    """Dotted names of the modules that a file imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of_project():
    """Dotted name of each module -> the file."""
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources()}


def imports():
    """Module of the project -> modules of the project that it imports."""
    modules = modules_of_project()
    return {
        name: {other for other in imported_modules(ast.parse((ROOT / path).read_text())) if other in modules}
        for name, path in modules.items()
    }


def test_packages_import_in_one_direction():
    """The commands of a package may import every package."""
    forbidden, modules, exempt = [], modules_of_project(), scripts()
    for name, others in imports().items():
        path = modules[name]
        package = name.split(".")[0]
        if path.startswith(EVERYTHING) or name in exempt:
            continue
        allowed = MAY_IMPORT[package] | {package}
        forbidden += [f"{name} -> {other}" for other in sorted(others) if other.split(".")[0] not in allowed]
    assert not forbidden


def test_nobody_imports_a_script():
    product = {name: others for name, others in imports().items() if not name.startswith("tests")}
    assert not [f"{name} -> {other}" for name, others in product.items() for other in others & SCRIPTS]


def test_only_tests_and_benchmarks_import_the_embedded_data_set():
    importers = {name for name, others in imports().items() if any(other.startswith("data.mini") for other in others)}
    assert all(name.startswith(("data.mini", "benchmarks", "tests")) for name in importers)


def test_no_cycles():
    graph, done, path = imports(), set(), []

    def visit(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            path.append(name)
            for other in sorted(graph[name] - {name}):
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_every_package_says_what_it_is_for():
    for package in (*MAY_IMPORT, "data.video", "data.mini", "summary.demo"):
        tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
        assert ast.get_docstring(tree), package
        assert {*imported_modules(tree)} <= {"importlib", "typing", "typing.TYPE_CHECKING", "typing.Any"}, package


WITHOUT_TORCH = [
    *[[script, "--help"] for script in sorted(SCRIPTS)],
    *[[script, "--no_such_flag"] for script in sorted(SCRIPTS)],
    *[["-m", module, "--help"] for module in ("data.download", "data.check", "data.pack", "metrics", "report")],
    *[["-m", module, "--help"] for module in ("report.compare", "report.card", "models.weights", "utils.download")],
]


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_answers_without_torch(words):
    """`--help` and a wrong flag do not wait for torch."""
    words = [f"{words[0]}.py", *words[1:]] if words[0] != "-m" else words
    code = (
        "import runpy, sys\n"
        "words = sys.argv[1:]\n"
        "run = runpy.run_module if words[0] == '-m' else runpy.run_path\n"
        "sys.argv = words[words[0] == '-m':]\n"
        "try: run(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code or 0)\n"
        "print('torch' in sys.modules, 'gradio' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    status = 0 if "--help" in words else 2
    assert done.stdout.splitlines()[-2:] == [f"status {status}", "False False False"], done.stderr


def test_the_table_names_every_package():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"} == set(MAY_IMPORT)
    assert pathlib.Path(ROOT, "summary/demo").is_dir()
