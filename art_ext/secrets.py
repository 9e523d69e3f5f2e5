"""One place that takes secrets out of text: before it is printed, logged, or written to a file or a server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HIDDEN", "masked", "masked_data"]

HIDDEN = "***"

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
_WORDS = r"[\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]id)?|credentials?|signature)"
_NAMED = re.compile(
    rf"(?P<name>(?:\b{_WORDS}|[?&]sig)[\"']?\s*=\s*|[\"']{_WORDS}[\"']\s*:\s*|\b(?:password|passwd)\s*:\s*)"
    r"(?P<quote>[\"']?)(?P<value>(?:Bearer\s+|Basic\s+)?[^\s&,;'\"]+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(r"(?P<kind>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}")
_SECRET_NAMES = re.compile(
    r"(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY(?:_ID)?|CREDENTIALS?|PRIVATE_KEY|CONNECTION_STRING)$",
    re.IGNORECASE,
)
_SHORTEST = 6  # shorter values of the environment are words that occur everywhere


def masked(text: str) -> str:
    """The text without user names and passwords in addresses, named secrets, and secrets of the environment.

    `https://ann:pw@host/x` becomes `https://***@host/x`, `token=abc` becomes `token=***`, and the value
    of a variable such as MLFLOW_TRACKING_PASSWORD or AWS_SECRET_ACCESS_KEY becomes `***` wherever it stands.
    """
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _AUTHORIZATION.sub(rf"\g<kind>{HIDDEN}", text)
    return _NAMED.sub(rf"\g<name>\g<quote>{HIDDEN}", text)


def masked_data(data: Any) -> Any:
    """The same for plain data: every text in lists and mappings, and every value whose key names a secret."""
    if isinstance(data, str):
        return masked(data)
    if isinstance(data, Mapping):
        return {
            key: HIDDEN if isinstance(value, str) and value and _SECRET_NAMES.search(str(key)) else masked_data(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [masked_data(item) for item in data]
    return data


def _of_environment() -> list[str]:
    """Values of variables whose names say that they are secret, the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
