"""Reads small files below a root, and remembers which of them it was not allowed to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Reader:
    """`denied` grows with every file that is there but may not be read."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self.denied: list[str] = []

    def text(self, path: str) -> str:
        """The file's text without the line end; empty if it is absent or may not be read."""
        try:
            return (self._root / path).read_text(errors="replace").strip()
        except PermissionError:
            self.denied.append(f"/{path}")
        except OSError:
            pass
        return ""

    def names(self, path: str) -> tuple[str, ...]:
        """What the directory holds, in order."""
        try:
            return tuple(sorted(entry.name for entry in (self._root / path).iterdir()))
        except PermissionError:
            self.denied.append(f"/{path}")
        except OSError:
            pass
        return ()

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def lines(self, directory: str, *, ending: str) -> Iterator[tuple[str, str]]:
        """(file, line) of every line that is no comment in the directory's files with that ending."""
        for name in self.names(directory):
            if name.endswith(ending):
                path = f"{directory}/{name}"
                for line in self.text(path).splitlines():
                    if line.strip() and not line.lstrip().startswith("#"):
                        yield f"/{path}", line.strip()
