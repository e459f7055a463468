"""What a stage of the pipeline has finished: one line per item, appended as it is done.

A build that is killed loses at most the items that were being worked on. A finished item is used
again while its key, a digest of everything that its result depends on, stays the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def key_of(*inputs: Any) -> str:
    """Names a result by what it was made from: JSON-able inputs, order of keys aside."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


class Ledger:
    """Finished items of one stage in a JSON-lines file: ``{"item", "key", "value"}``.

    Example:
        >>> ledger = Ledger(Path("stages/inspect.jsonl"))
        >>> ledger.put("clip-1", key_of("clip-1", 160), {"num_frames": 72})
        >>> ledger.get("clip-1", key_of("clip-1", 160)), ledger.get("clip-1", key_of("clip-1", 9))
        ({'num_frames': 72}, None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._entries: dict[tuple[str, str], Any] = {}
        whole = self._read()
        self._file = path.open("a", encoding="utf-8")
        if not whole:  # a line torn by a kill: what follows must not be glued to it
            self._file.write("\n")

    def _read(self) -> bool:
        """Take up every whole line; False when the file does not end with one."""
        if not self.path.is_file():
            return True
        text = self.path.read_text(encoding="utf-8", errors="replace")
        for line in text.split("\n"):  # not splitlines: texts may hold U+2028
            try:
                row = json.loads(line)
                self._entries[row["item"], row["key"]] = row["value"]
            except (ValueError, KeyError, TypeError):
                continue  # torn or damaged: its item is simply not finished
        return not text or text.endswith("\n")

    def get(self, item: str, key: str) -> Any | None:
        """The value that was put for ``item`` under the same key, or None."""
        return self._entries.get((item, key))

    def put(self, item: str, key: str, value: Any) -> None:
        """Enter a finished item; a kill of this process cannot take it back."""
        self._entries[item, key] = value
        self._file.write(_line(item, key, value))
        self._file.flush()

    def values(self) -> list[Any]:
        """Everything that was put and not forgotten, earlier builds' items included."""
        return list(self._entries.values())

    def keep(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Forget all but these (item, key): what no recipe asks for any more; atomic."""
        held = set(wanted)
        if held >= self._entries.keys():
            return
        self._entries = {name: value for name, value in self._entries.items() if name in held}
        lines = (_line(item, key, value) for (item, key), value in self._entries.items())
        self._file.close()
        write_atomically(self.path, "".join(lines))
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either absent, the old one, or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _line(item: str, key: str, value: Mapping[str, Any]) -> str:
    return json.dumps({"item": item, "key": key, "value": value}, ensure_ascii=False) + "\n"
