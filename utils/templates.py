"""Jinja2 environment of the pages that are written to disk."""

import pathlib

import jinja2


def template_environment(folder: pathlib.Path) -> jinja2.Environment:
    """Load the templates of a folder: values are escaped in `.html`, not in `.md` and `.js`, which use `tojson`.

    An undefined name is an error. `tojson` is safe in a script element: it escapes `<`, `>`, `&` and `'`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = dict(ensure_ascii=False, separators=(",", ":"))
    return environment
