"""The README and docs/, whose commands are run by tests."""

import re

from tests.conftest import ROOT


def document(name):
    """The text of `README`, or of a page of docs/."""
    return (ROOT / "README.md" if name == "README" else ROOT / f"docs/{name}.md").read_text()


def code(name, language="bash"):
    """A page's code blocks of a language, line continuations joined."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", document(name), re.M | re.S)).replace("\\\n", " ")


def commands(name, script):
    """A page's command lines that run a script under the launcher."""
    start = "python -m torch.distributed.run "
    return [line for line in code(name).splitlines() if line.startswith(start) and script in line]
