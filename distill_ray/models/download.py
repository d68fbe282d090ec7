"""A file of the network: whole and as it should be, or not there."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
import uuid
from pathlib import Path
from typing import BinaryIO

ATTEMPTS = 5
"""How often a download begins, or goes on where the connection broke."""

TIMEOUT_S = 60.0
"""Seconds without a byte after which a connection counts as broken."""


def download(url: str, file: Path, digest: str = "") -> None:
    """Put what is at `url` into `file`; its SHA-256 must begin with `digest`.

    A download whose connection breaks goes on from there where the server can. Raises `OSError`
    where it does not come to its end, and `ValueError` for other content; nothing is left then.
    """
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as target:
            if not any(_receive(url, target) for _ in range(ATTEMPTS)):
                raise OSError(f"the connection broke {ATTEMPTS} times")
        with partial.open("rb") as received:
            sha256 = hashlib.file_digest(received, "sha256").hexdigest()
        if not sha256.startswith(digest):
            raise ValueError(f"its SHA-256 begins with {sha256[: len(digest)]}, not {digest}")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _receive(url: str, target: BinaryIO) -> bool:
    """Write what `target` does not have yet; whether that came to its end."""
    begin = target.tell()
    headers = {"User-Agent": "distill-ray"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        if begin and response.status != http.client.PARTIAL_CONTENT:  # it begins again
            begin = target.seek(0)
            target.truncate()
        try:
            shutil.copyfileobj(response, target)
        except (OSError, http.client.HTTPException):
            return False
        length = response.headers["Content-Length"]
        return length is None or target.tell() - begin == int(length)
