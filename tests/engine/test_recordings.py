"""The stand-ins answer as the official plugins did: recorded requests, sent again.

The recordings hold what the official `command` 1.2.1, `tls` 5.6.2 and Python language host 3.259.0 answered on
2026-11-28. All keys in them were made for that. `exchange_requests.py` says how to record again.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from engine.exchange import Places, asked

_CHECKOUT = Path(__file__).parents[2]
_RECORDINGS = Path(__file__).parent / "recordings"
_PLUGINS = {
    "command": "pulumi-resource-command",
    "tls": "pulumi-resource-tls",
    "language": "pulumi-language-python",
}
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET, _OUTPUT = "1b47061264138c4ac30d75fd1eb44270", "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

# What the plugins tell the engine of their own abilities; and what they keep in the state for their own framework.
_OWN_WAYS = {"acceptOutputs", "acceptResources", "acceptSecrets", "supportsAutonamingConfiguration"}
_OWN_STATE = {"__pulumi-go-provider-version", "__pulumi_raw_state_delta"}
_STRICTER = {
    "a wrong address is checked": "the official plugin refuses it when the request is made",
}
_LAXER = {
    "an authority without a time is checked": "the SDK refuses it before the plugin is asked",
}
_OTHER_WORDS = {
    "a command on an unknown host is created",
    "a leaf by what is no key is created",
}
"""Errors whose text comes from another library."""
_ALREADY_SHOWN = {"an error for the user is run", "a message at the exit is run"}
"""The official host adds "program exited with non-zero exit code: 1" to the error, or prints the text as output."""


def _recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_RECORDINGS / f"{name}.json").read_text())
    return found


def _cases() -> Iterator[Any]:
    for name in _PLUGINS:
        for number, exchange in enumerate(_recorded(name)):
            yield pytest.param(name, exchange, id=f"{name}-{number}-{exchange['title'].replace(' ', '-')}")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Places]]:
    """The stand-ins at work; a language host for each program, as the engine starts one for each run."""
    at_work: dict[str, Places] = {}

    def plugin(name: str) -> Places:
        if name == "language" and name in at_work:
            at_work.pop(name).__exit__(None, None, None)
        if name not in at_work:
            executable = str(_CHECKOUT / "toolchain" / "from_source" / "standins" / "bin" / _PLUGINS[name])
            at_work[name] = Places(tmp_path_factory.mktemp(name), [executable]).__enter__()
        return at_work[name]

    yield plugin
    for places in at_work.values():
        places.__exit__(None, None, None)


@pytest.mark.parametrize(("name", "exchange"), list(_cases()))
def test_the_answer_is_the_official_one(
    plugins: Callable[[str], Places], name: str, exchange: Mapping[str, Any]
) -> None:
    title = exchange["title"]
    found = _comparable(asked(plugins(name), exchange["method"], exchange["request"]))
    recorded = _comparable(exchange["found"])
    if title in _OTHER_WORDS:
        assert found["error"][0] == recorded["error"][0]
    elif title in _STRICTER:
        assert found["answer"]["refused"] and not recorded["answer"].get("refused")
    elif title in _LAXER:
        assert recorded["answer"]["refused"] and not found["answer"].get("refused")
    elif title in _ALREADY_SHOWN:
        assert found["answer"] == {"bail": True}
        assert recorded["answer"]["error"] == "program exited with non-zero exit code: 1"
        assert found["registered"] == recorded["registered"]
    else:
        assert found == recorded


def test_every_exception_is_in_a_recording() -> None:
    titles = {exchange["title"] for name in _PLUGINS for exchange in _recorded(name)}
    assert {*_STRICTER, *_LAXER, *_OTHER_WORDS, *_ALREADY_SHOWN} <= titles


def _comparable(found: Mapping[str, Any]) -> dict[str, Any]:
    """What came of a request without what is random, and in one of the forms that mean the same to the engine."""
    answer = found.get("answer")
    return {
        **found,
        **({"answer": _answer(answer)} if answer is not None else {}),
        "said": [said for said in found.get("said", []) if said[0] != "DEBUG"],
        # Two streams of one command may come in either order.
        "shown": sorted(found.get("shown", [])),
    }


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in answer.items() if name not in _OWN_WAYS}
    if "version" in kept:
        kept["version"] = kept["version"].removeprefix("v")
    if "failures" in kept:
        # Without the inputs, which the engine drops then, and the words.
        return {"refused": True}
    if "changes" in kept:
        return _difference(kept)
    for name in ("properties", "inputs"):
        if name in kept:
            kept[name] = _properties(kept[name])
    planned = _UNKNOWN in json.dumps(kept.get("properties", {}))
    if planned:
        known = {name: value for name, value in kept["properties"].items() if value != _UNKNOWN}
        kept["properties"] = {name: value for name, value in known.items() if name != "id"}
    return kept | ({"id": _identity(kept["id"])} if "id" in kept else {})


def _difference(answer: Mapping[str, Any]) -> dict[str, Any]:
    """By inputs: a provider need not say which part of one has changed."""
    return {
        "changes": answer["changes"],
        **{
            name: sorted({re.split(r"[.\[]", path)[0] for path in answer.get(name, [])})
            for name in ("diffs", "replaces")
        },
    }


def _properties(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) in (_SECRET, _OUTPUT):
            inner = _properties(value.get("value", _UNKNOWN), name)
            # A framework may say that something unknown is secret: the engine knows it from the SDK.
            return inner if inner == _UNKNOWN else {"secret": inner}
        return {each: _properties(inner, each) for each, inner in value.items() if each not in _OWN_STATE}
    if isinstance(value, list):
        return [_properties(each) for each in value]
    return _text(value, name) if isinstance(value, str) else value


def _text(text: str, name: str) -> str:
    if name == "id":
        return _identity(text)
    if name.startswith("validity") and name.endswith("Time"):
        return re.sub(r"\d", "0", re.sub(r"\.\d+", "", text))
    if text.startswith("-----BEGIN CERTIFICATE-----"):
        return _certificate(x509.load_pem_x509_certificate(text.encode()))
    if text.startswith("-----BEGIN CERTIFICATE REQUEST-----"):
        request = x509.load_pem_x509_csr(text.encode())
        return f"{request.subject} {_extensions(request.extensions)} {request.signature_algorithm_oid}"
    if text.startswith("-----BEGIN "):
        return text.splitlines()[0]
    if name == "publicKeyOpenssh":
        return text.split()[0] + text[-1:]
    if name.startswith("publicKeyFingerprint"):
        return re.sub(r"[0-9a-f]{2}(?=:|$)", "xx", text) if name.endswith("Md5") else text[:7]
    return text


def _certificate(certificate: x509.Certificate) -> str:
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return (
        f"{certificate.subject} by {certificate.issuer} for {lasts} {certificate.signature_algorithm_oid} "
        f"{_extensions(certificate.extensions)}"
    )


def _extensions(extensions: x509.Extensions) -> list[str]:
    return sorted(f"{each.oid.dotted_string} {each.critical} {each.value}" for each in extensions)


def _identity(text: str) -> str:
    if text.startswith("it"):
        return re.sub(r"[0-9a-f]{8}$", "xxxxxxxx", text)
    if re.fullmatch(r"[0-9a-f]{40}", text):
        return "a sha1"
    # A serial number of up to 128 bits.
    return "a number" if text.isdigit() else text
