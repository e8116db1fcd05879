"""What two kubeconfigs say, compared. Only the names of what differs are said: there are keys in them."""

import base64
from collections.abc import Mapping
from typing import Any

import yaml

from live.by_hand import certificates

_CERTIFICATE, _CA = "client-certificate-data", "certificate-authority-data"


def is_kubeconfig(path: str) -> bool:
    """Whether a file is one, by its name."""
    return path.endswith(".kubeconfig")


def differences(expected: bytes, found: bytes) -> list[str]:
    """What a kubeconfig says that another one does not, in words; empty where both say the same."""
    wanted, there = _said(expected), _said(found)
    if not there:
        return ["it is no kubeconfig with a current context, or its keys are in other files"]
    differ = []
    for field, value in wanted.items():
        other = there.get(field, "")
        if field in (_CERTIFICATE, _CA):
            said = certificates.differences(_decoded(value), _decoded(other))
            differ += [f"{field}: {each}" for each in said]
        elif value != other:
            differ.append(f"{field} differs")
    return differ


def _said(content: bytes) -> Mapping[str, str]:
    """What the current context says: server, user, CA and keys."""
    try:
        document = yaml.safe_load(content)
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        return {"server": cluster["server"], _CA: cluster[_CA], **{key: user[key] for key in sorted(user)}}
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        return {}


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(each for each in items if each["name"] == name)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""
