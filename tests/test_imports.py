"""Imports between packages: in one direction, without cycles, and never of a script."""

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
UNRESTRICTED = ("data/mini/", "benchmarks/", "tests/")  # may import every package


def list_sources():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True)
    return [path for path in listed.stdout.decode().split() if (ROOT / path).is_file()]


def list_scripts():
    """List modules that are only run: scripts, `__main__.py`, and modules for `python -m` that are never imported."""
    graph, modules = build_import_graph(), map_modules_to_files()
    imported = {other for name, others in graph.items() for other in others if not name.startswith("tests")}
    return {
        name
        for name, path in modules.items()
        if "/" not in path
        or path.endswith("/__main__.py")
        or (name not in imported and 'if __name__ == "__main__":' in (ROOT / path).read_text())
    }


def find_imported_modules(tree):
    """Yield the dotted names of the modules that a file imports, including imports in functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def map_modules_to_files():
    """Map the dotted name of each module to its file."""
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in list_sources()}


def build_import_graph():
    """Map each module of the project to the modules of the project that it imports."""
    modules = map_modules_to_files()
    return {
        name: {other for other in find_imported_modules(ast.parse((ROOT / path).read_text())) if other in modules}
        for name, path in modules.items()
    }


def test_packages_import_in_one_direction():
    """Modules that are only run may import every package."""
    forbidden, modules, exempt = [], map_modules_to_files(), list_scripts()
    for name, others in build_import_graph().items():
        path = modules[name]
        package = name.split(".")[0]
        if path.startswith(UNRESTRICTED) or name in exempt:
            continue
        allowed = MAY_IMPORT[package] | {package}
        forbidden += [f"{name} -> {other}" for other in sorted(others) if other.split(".")[0] not in allowed]
    assert not forbidden


def test_scripts_are_not_imported():
    product = {name: others for name, others in build_import_graph().items() if not name.startswith("tests")}
    assert not [f"{name} -> {other}" for name, others in product.items() for other in others & SCRIPTS]


def test_only_tests_and_benchmarks_import_mini():
    importers = {
        name for name, others in build_import_graph().items() if any(other.startswith("data.mini") for other in others)
    }
    assert all(name.startswith(("data.mini", "benchmarks", "tests")) for name in importers)


def test_imports_have_no_cycles():
    graph, done, path = build_import_graph(), set(), []

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


def test_packages_have_docstrings_and_no_imports():
    for package in (*MAY_IMPORT, "data.video", "data.mini", "summary.demo"):
        tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
        assert ast.get_docstring(tree), package
        assert {*find_imported_modules(tree)} <= {"importlib", "typing", "typing.TYPE_CHECKING", "typing.Any"}, package


WITHOUT_TORCH = [
    *[[script, "--help"] for script in sorted(SCRIPTS)],
    *[[script, "--no_such_flag"] for script in sorted(SCRIPTS)],
    *[["-m", module, "--help"] for module in ("data.download", "data.check", "data.pack", "metrics", "report")],
    *[["-m", module, "--help"] for module in ("metrics.parse", "engine.export_h5")],
    *[["-m", module, "--help"] for module in ("report.compare", "report.card", "models.weights", "utils.download")],
    *[["-m", "report.reproduce", flag] for flag in ("--help", "--no_such_flag")],
]


@pytest.mark.parametrize("argv", WITHOUT_TORCH, ids=" ".join)
def test_help_and_usage_errors_do_not_import_torch(argv):
    """`--help` and an unknown flag are answered without importing torch."""
    argv = [f"{argv[0]}.py", *argv[1:]] if argv[0] != "-m" else argv
    program = (
        "import runpy, sys\n"
        "words = sys.argv[1:]\n"
        "run = runpy.run_module if words[0] == '-m' else runpy.run_path\n"
        "sys.argv = words[words[0] == '-m':]\n"
        "try: run(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code or 0)\n"
        "print('torch' in sys.modules, 'gradio' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)
    status = 0 if "--help" in argv else 2
    assert done.stdout.splitlines()[-2:] == [f"status {status}", "False False False"], done.stderr


def test_allowed_imports_list_every_package():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"} == set(MAY_IMPORT)
    assert pathlib.Path(ROOT, "summary/demo").is_dir()
