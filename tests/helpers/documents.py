"""The README and docs/, whose commands are run by tests."""

import re

from tests.conftest import ROOT


def read_document(name):
    """Read `README`, or a page of docs/."""
    return (ROOT / "README.md" if name == "README" else ROOT / f"docs/{name}.md").read_text()


def read_code(name, language="bash"):
    """Read a page's code blocks in one language, with line continuations joined."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", read_document(name), re.M | re.S)
    return "\n".join(blocks).replace("\\\n", " ")


def read_first_command(name):
    """Read the first line of code of a page, which precedes its first section."""
    (line,) = re.findall(r"^```bash\n(.*)\n```", read_document(name).split("\n## ")[0], re.M)[:1] or [""]
    return line


def read_launcher_commands(name, script):
    """Read a page's command lines that run a script under `torch.distributed.run`."""
    prefix = "python -m torch.distributed.run "
    return [line for line in read_code(name).splitlines() if line.startswith(prefix) and script in line]
