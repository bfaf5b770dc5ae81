"""Files found by path patterns with named parts, such as `raw/{case}.tif`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_FOLDERS = r"(?<![^/])\*\*/"  # as pathlib has it, only as a whole part of the path
_TOKENS = re.compile(rf"(\{{[^}}]*\}}?|{_FOLDERS}|\*|\?)")


def pattern_expression(pattern: str, names: Sequence[str]) -> re.Pattern[str]:
    """A regular expression with a group for each named part; `*` and `?` stand for parts of one name, `**/` for folders.

    Raises:
        ValueError: a part in braces that is not one of `names`.
    """
    expression, seen = "", set()
    for part in _TOKENS.split(pattern):
        if part.startswith("{"):
            name = part[1:-1]
            if name not in names or not part.endswith("}"):
                raise ValueError(f"pattern {pattern!r} holds {part}; expected {' or '.join(f'{{{one}}}' for one in names)}")
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            expression += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return re.compile(expression)


def glob_pattern(pattern: str) -> str:
    """A pattern that pathlib understands and that finds no less."""
    stars = re.sub(r"\{\w+\}", "*", re.sub(_FOLDERS, "\0", pattern.replace("[", "[[]")))
    return re.sub(r"\*+", "*", stars).replace("\0", "**/")


def find(pattern: str, names: Sequence[str]) -> dict[tuple[str | None, ...], Path]:
    """Every file and folder that a pattern finds, by what its named parts stand for.

    A part of the pattern behind an HDF5 file (`{case}.h5/volumes/raw`) is a dataset in it and is not looked for here.

    Args:
        pattern: absolute, or relative to the working folder. Without wildcards it is one path, whose named parts are all None.
        names: of the parts, without braces; in this order in the keys.

    Raises:
        FileNotFoundError: nothing found.
        ValueError: two paths that agree in all named parts, or an unknown part.
    """
    on_disk, within = _split_hdf5(pattern)
    on_disk = str(PurePosixPath(on_disk))  # as pathlib gives what it finds: without ./ and //
    expression = pattern_expression(on_disk, names)
    if not re.search(r"[{*?]", on_disk):
        return {(None,) * len(names): Path(pattern)}
    parts = PurePosixPath(on_disk).parts
    fixed = next(i for i, part in enumerate(parts) if re.search(r"[{*?]", part))
    root = Path(*parts[:fixed])
    found: dict[tuple[str | None, ...], Path] = {}
    for path in sorted(root.glob(glob_pattern("/".join(parts[fixed:])))):
        match = expression.fullmatch(path.as_posix())
        if match is None or path.name.startswith("."):
            continue
        key = tuple(match.groupdict().get(name) for name in names)
        if key in found:
            raise ValueError(f"{found[key]} and {path} both fit {pattern!r}; name what tells them apart by {{{names[-1]}}}, or say "
                             "more of their names")
        found[key] = path / within if within else path
    if not found:
        raise FileNotFoundError(f"found nothing for {pattern!r} in {root.absolute()}; check the pattern, and quote it against the shell")
    return found


def _split_hdf5(pattern: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*?\.(?:h5|hdf5|hdf|he5))/(.*)", pattern, re.IGNORECASE)
    return (match[1], match[2]) if match and not Path(match[1]).is_dir() else (pattern, "")
