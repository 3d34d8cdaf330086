"""Manifests in JSON: an object per line, or one array of objects."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from perceiver.data.manifest.formats.table_file import TableFile, is_broken, named_columns
from perceiver.data.readers.bounded.json_files import parse_json
from perceiver.data.readers.delimited import decoded


def read_json_rows(path: Path, content: bytes) -> TableFile:
    """Read the content of a JSON file, whose objects have columns as keys; a row may lack some of them.

    Raises:
        ValueError: the content is neither lines of JSON nor an array of objects.
    """
    text = decoded(content, path=path, errors="surrogateescape")
    parsed, lines = _from_array(path, text) if _is_array(text) else _from_lines(text)
    problems = {row: problem for row, (_, problem) in enumerate(parsed) if problem}
    if len(problems) == len(parsed) > 0:
        where = "row 1" if lines is None else f"line {lines[0]}"
        raise ValueError(
            f"{path}, {where}{problems[0]}. Expected one object {{…}} per line, or one array of objects, [{{…}}, {{…}}]."
        )
    rows = [row for row, _ in parsed]
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen, repeated = named_columns(path, names)
    columns = {
        name: pa.array(
            [None if row.get(names[number]) is None else json.dumps(row[names[number]]) for row in rows],
            type=pa.large_string(),
        )
        for name, number in chosen.items()
    }
    return TableFile(path=path, columns=columns, json_text=True, lines=lines, problems=problems, repeated=repeated)


Parsed = list[tuple[dict[str, Any], str]]
"""Rows, each with its problem or an empty string."""


def _is_array(text: str) -> bool:
    """Return whether a text is one array, rather than a line per row the first of which is a list by mistake."""
    text = text.strip()
    if not text.startswith("["):
        return False
    first, _, rest = text.partition("\n")
    if not rest.strip():
        return True
    try:
        parse_json(first)
    except ValueError:
        return True
    return False


def _from_array(path: Path, text: str) -> tuple[Parsed, None]:
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: begins with [ but is not a JSON array: {error}. Expected one array of objects, [{{…}}, {{…}}], or one "
            "object {…} per line."
        ) from None
    return [_checked(entry) for entry in entries], None


def _from_lines(text: str) -> tuple[Parsed, list[int]]:
    parsed, lines = [], []
    # Not str.splitlines: JSON may hold unescaped Unicode line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed.append(_checked(parse_json(line)))
        except ValueError as error:
            parsed.append(({}, f": is not JSON: {error}"))
        lines.append(number)
    return parsed, lines


def _checked(row: Any) -> tuple[dict[str, Any], str]:
    if not isinstance(row, dict):
        return {}, f": expected a JSON object, got {type(row).__name__}"
    for name in row:
        # Invalid characters that json.loads passes through come from the broken file.
        if is_broken(name) or is_broken(json.dumps(row[name], ensure_ascii=False)):
            return {}, f", column {name.encode(errors='replace').decode()!r}: is not UTF-8; save the file as UTF-8"
    return row, ""
