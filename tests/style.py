"""Check names and spelling, which ruff and mypy do not: `python tests/style.py`, part of `make lint`.

- no variable, parameter, keyword or attribute with a meaningless name;
- no two public functions, classes or constants of the product with the same name;
- American spelling in code and documents.
"""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEANINGLESS = frozenset({"how", "place", "found", "what", "own", "there", "some", "around"})
SHARED = frozenset({"main", "logger"})  # names that each module may define
BRITISH = re.compile(
    r"\b\w*(?:colour|neighbour|behaviour|favour|centre[ds]?\b|tokenis|summaris|normalis|initialis|optimis|serialis"
    r"|recognis|analys(?:e|ed|ing)\b|catalogue|grey\b)\w*",
    re.IGNORECASE,
)


def bound_names(node: ast.AST) -> Iterator[str]:
    """Names that a node of the syntax tree binds: variables, parameters, keywords, attributes."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.arg | ast.keyword) and node.arg is not None:
        yield node.arg


def public_names(tree: ast.Module) -> Iterator[str]:
    """Public names that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_") and name not in SHARED)


def check_meaningless_names(files: Mapping[str, str]) -> list[str]:
    """Find meaningless names in Python files (path -> content)."""
    return [
        f"{path}:{node.lineno}: {name}: a name that explains itself is expected"
        for path, text in files.items()
        for node in ast.walk(ast.parse(text))
        for name in bound_names(node)
        if name in MEANINGLESS
    ]


def check_repeated_names(files: Mapping[str, str]) -> list[str]:
    """Find public names that two Python files (path -> content) define."""
    paths_of: dict[str, list[str]] = {}
    for path, text in files.items():
        for name in dict.fromkeys(public_names(ast.parse(text))):
            paths_of.setdefault(name, []).append(path)
    return [f"{', '.join(paths)}: {name}: defined more than once" for name, paths in paths_of.items() if len(paths) > 1]


def check_spelling(files: Mapping[str, str]) -> list[str]:
    """Find British spellings in files (path -> content)."""
    return [
        f"{path}:{number}: {match[0]}: American spelling is expected"
        for path, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        for match in BRITISH.finditer(line)
    ]


def read_files(patterns: Iterable[str]) -> dict[str, str]:
    """Read the repository's files: path -> content."""
    paths = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    examples = {"tests/style.py", "tests/test_style.py"}  # of problems
    files = {path: ROOT / path for path in paths.stdout.split() if path not in examples}
    return {path: file.read_text(encoding="utf-8") for path, file in files.items() if file.is_file()}


def check_repository() -> list[str]:
    """Return one line per problem."""
    python = read_files(["*.py"])
    product = {path: text for path, text in python.items() if not path.startswith("tests/")}
    documents = read_files(["*.md", "*.yaml", "*.html", "*.toml", "Makefile"])
    return [
        *check_meaningless_names(python),
        *check_repeated_names(product),
        *check_spelling(python | documents),
    ]


if __name__ == "__main__":
    problems = check_repository()
    print("\n".join(problems) or "style: no problems")
    sys.exit(bool(problems))
