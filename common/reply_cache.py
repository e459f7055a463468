"""Replies of language models on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError

BUSY_SECONDS = 60.0  # another process may be writing


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedReply:
    text: str
    input_tokens: int
    output_tokens: int


class ReplyCache:
    """A table from the hash of a question to its reply; questions themselves are not kept.

    One SQLite file in its default journal mode: safe when a process is killed and when several
    share the file. Every reply is on disk before :meth:`put` returns.

    Raises:
        ConfigError: for a file that cannot be opened or is no such table.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
                "input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"reply cache {path}",
                f"it can be opened and written ({error})",
                "free the file, or delete it: its replies are then asked for again",
            ) from error

    @staticmethod
    def key(question: Mapping[str, Any]) -> str:
        """SHA-256 of everything that decides a reply: model, messages, parameters."""
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> CachedReply | None:
        row = self._database.execute(
            "SELECT text, input_tokens, output_tokens FROM replies WHERE key = ?", (key,)
        ).fetchone()
        return row and CachedReply(text=row[0], input_tokens=row[1], output_tokens=row[2])

    def put(self, key: str, reply: CachedReply) -> None:
        """Keep ``reply``; of two for one key the first stays."""
        self._database.execute(
            "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)",
            (key, reply.text, reply.input_tokens, reply.output_tokens),
        )

    def close(self) -> None:
        self._database.close()
