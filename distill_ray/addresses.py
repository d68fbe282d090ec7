"""Addresses of stores, data sets, databases and servers: what may be printed of one, and whether it
is one at all.

Every address that is printed, logged or stored goes through `masked`, and every text that may hold
one (the message of a library, a command line, a study file) through `masked_text`. Both prefer to
show too little: where it cannot be known which part is secret, only the scheme remains.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from distill_ray.errors import RequestError

FILE_SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""Schemes of the file systems that stores and data sets can be on."""

_SCHEMES = (
    *FILE_SCHEMES,
    *("http", "https", "ray", "sqlite", "postgresql", "postgres", "mysql", "mssql", "databricks"),
)
_LETTERS = r"[A-Za-z][A-Za-z0-9+.-]{1,30}"
_COMPLETE = re.compile(rf"({_LETTERS}://)(.*)", re.DOTALL)
_MISTYPED = re.compile(
    rf"((?:{'|'.join(_SCHEMES)})(?:\+\w+)?(?::/{{0,3}}|//))(.*)", re.DOTALL | re.IGNORECASE
)
_MODEL = re.compile(r"models:/[^/@:]+(@[\w.-]+)?:?$")
"""A model in MLflow's registry by name and alias: `models:/name@champion` holds no secret."""

_IN_TEXT = re.compile(
    rf"(?<!\w)(?:{_LETTERS}:/|(?:{'|'.join(_SCHEMES)})(?:\+\w+)?(?::|//))[^\s'\"`]*", re.IGNORECASE
)
_PAIR = re.compile(r"[^\s'\"`/:@]{1,100}:(?!//)[^\s'\"`@]{1,200}@(?=\w)")
_SECRET_OPTION = re.compile(
    r"((?:secret|passw|token|access_?key|credential|signature)[\w-]{0,30}=)[^\s&'\"`]+",
    re.IGNORECASE,
)


def masked(address: str) -> str:
    """`address` without user name, password, query and fragment: the only form in which one is
    printed.

    A local path is returned as it is. Mistyped addresses (`s3//KEY:SECRET@bucket`) are masked too.
    """
    if _MODEL.match(address):
        return address
    match = _COMPLETE.match(address) or _MISTYPED.match(address)
    if match is None:
        return _masked_path(address)
    scheme, rest = match.groups()
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    if "@" in path and ("@" in host or ":" in rest[: rest.rindex("@")]):
        return f"{scheme}***"  # a special character in a password, or an @ in a path
    return scheme + re.split(r"[?#]", host.rpartition("@")[2] + path, maxsplit=1)[0]


def _masked_path(path: str) -> str:
    """The same for what has no scheme: a path, unless it holds `KEY:SECRET@` or `?option=value`."""
    local = path.startswith(("/", ".", "~")) and not path.startswith("//")
    if not local and ":" in path.rpartition("@")[0]:
        return "***"
    return re.split(r"\?[\w.-]+=", path, maxsplit=1)[0]


def masked_text(text: str, *addresses: str) -> str:
    """`text` with every address in it masked; of `addresses`, the secrets alone are taken out too.

    Some libraries quote parts of an address in their errors, decoded or not; name the address that
    they were given.
    """
    for address in filter(None, addresses):
        text = text.replace(address, masked(address))
        for secret in _secrets(address):
            text = text.replace(secret, "***")
    text = _IN_TEXT.sub(lambda match: masked(match[0]), text)
    text = _PAIR.sub(lambda pair: pair[0] if _MODEL.match(f"{pair[0]}x") else "***@", text)
    return _SECRET_OPTION.sub(r"\1***", text)


def _secrets(address: str) -> list[str]:
    """The parts of an address that are secret by themselves, the longest first."""
    try:
        parts = urlsplit(address)
        secrets = {parts.password, parts.query}
    except ValueError:
        secrets = set()
    before, at, _ = address.rpartition("@")
    if at:
        secrets.add(before.rpartition("://")[2].partition(":")[2])
    values = {value for _, value in re.findall(r"[?&]([\w.-]+)=([^&#]*)", address)}
    telling = {secret for secret in secrets | values if secret and len(secret) > 2}
    return sorted(telling | {unquote(secret) for secret in telling}, key=len, reverse=True)


def check_scheme(address: str, what: str, schemes: Collection[str] = FILE_SCHEMES) -> None:
    """Make sure that `address` is a path or begins with one of `schemes`.

    Args:
        address: as the user wrote it.
        what: what it is the address of, for the message: `"store"`.
        schemes: those that can be used there.

    Raises:
        RequestError: it looks like an address and is none (`s3:/bucket`, `s3//bucket`), or one of
            another kind.
    """
    complete = _COMPLETE.match(address)
    if complete is not None:
        scheme = complete[1].removesuffix("://").lower()
        if scheme in schemes or scheme.partition("+")[0] in schemes:
            return
        reason = f"{scheme!r} is not a kind of address that can be used here"
    else:
        # `file:/x` is complete; one letter before a colon may be a drive
        if not re.match(rf"{_LETTERS}:", address) and not _MISTYPED.match(address):
            return
        if address.lower().startswith("file:/") and "file" in schemes:
            return
        reason = "looks like an address, and is none"
    known = ", ".join(f"{scheme}://" for scheme in schemes)
    raise RequestError(
        f"{what} {masked(address)!r}: {reason}; write one of {known}, "
        "or a path (with ./ before it, if there is a colon in its name)"
    )
