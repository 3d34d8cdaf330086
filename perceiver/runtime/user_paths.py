"""Paths that the user types in settings, in which `~` and `$VARIABLE` are expanded. Paths in files of data are not."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)


def expanded(path: str | os.PathLike[str], *, setting: str) -> Path:
    """Return a path with `~`, `$VARIABLE` and `${VARIABLE}` expanded; a path that exists is returned unchanged.

    Args:
        path: path in a setting of the user, never in a file of data.
        setting: name of the setting, for messages.

    Raises:
        ValueError: a variable is not set.

    Examples:
        >>> import os
        >>> from perceiver.runtime.user_paths import expanded
        >>> os.environ["PHOTOS"] = "/data/photos"
        >>> expanded("$PHOTOS/cats", setting="data.root").as_posix()
        '/data/photos/cats'
    """
    text = os.fspath(path)
    if os.path.lexists(text):
        return Path(text)
    for match in _VARIABLE.finditer(text):
        if match[1].strip("{}") not in os.environ:
            raise ValueError(f"{setting}: expected a path, got {text!r}, but the variable {match[0]} is not set.")
    return Path(_VARIABLE.sub(lambda match: os.environ[match[1].strip("{}")], text)).expanduser()
