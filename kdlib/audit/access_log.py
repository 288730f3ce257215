"""Who asked a released model, and when: appended before an answer, and again with it."""

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdlib import runs
from kdlib.errors import KdlibError


class Log:
    """Who asked, and how often a token was refused: JSON lines that are only ever appended.

    Of a prompt there is a digest, to tell whether two are the same. A plain SHA-256 of a short
    prompt is found by trying likely ones, so it is keyed (HMAC): who has not the key, which is made
    once and lies beside the log, can try none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with runs.locked(path):
            self.key = self._load_or_make_key(path.with_suffix(".key"))

    @staticmethod
    def _load_or_make_key(path: Path) -> bytes:
        """The key of a file that its owner alone may read, 32 bytes, drawn where there is none."""
        with runs.write_errors(path):
            if not path.exists():
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(os.urandom(32))
            key = path.read_bytes()
        if len(key) != 32:
            raise KdlibError(f"{path} is no key of a log: {len(key)} bytes, and not 32; remove it")
        return key

    def digest(self, prompt: str) -> str:
        """HMAC-SHA256 of a prompt, 64 hex digits."""
        return hmac.new(self.key, prompt.encode(), hashlib.sha256).hexdigest()

    def write(
        self,
        event: str,
        user: str,
        prompts: Sequence[str],
        refused: Sequence[int] | None = None,
        asked: str | None = None,
    ) -> str:
        """Append a line for each prompt; they are on the disk when this returns.

        Events are "asked", and then "answered" or "failed", with the number that was returned when
        it was `asked` (drawn here, where it is None).
        """
        asked = asked or os.urandom(8).hex()
        fields: dict[str, str | int | None] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "event": event,
        }
        fields |= {"request": asked, "user": user}
        counts: Sequence[int | None] = refused or [None] * len(prompts)
        records = [
            fields | {"prompt_hmac_sha256": self.digest(prompt), "refused": count}
            for prompt, count in zip(prompts, counts, strict=True)
        ]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with runs.locked(self.path), runs.write_errors(self.path), self.path.open("a+b") as file:
            if file.tell() and _last(file) != b"\n":  # a power cut broke a line off
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        return asked


def _last(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
