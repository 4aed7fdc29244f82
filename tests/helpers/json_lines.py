"""Files of JSON lines."""

import json


def write_json_lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
