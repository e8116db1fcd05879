"""What the official plugins were asked for the recordings, and how to ask them again.

Only needed to record again, for another version of a plugin:
`.venv/bin/python -m engine.exchange_requests command /path/to/pulumi-resource-command` in tests/, likewise `tls` and
`language`.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.exchange import Places, asked

Request = Mapping[str, Any]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
_LOCAL, _REMOTE = "command:local:Command", "command:remote:Command"


def secret(value: Any) -> Any:
    return {**SECRET, "value": value}


def _of(kind: str, **rest: Any) -> dict[str, Any]:
    return {"urn": f"urn:pulumi:test::exchange::{kind}::it", "name": "it", "type": kind, **rest}


def _start(name: str, version: str) -> Iterator[tuple[str, str, Request]]:
    urn = f"urn:pulumi:test::exchange::pulumi:providers:{name}::default"
    yield "its version", "provider.GetPluginInfo", {}
    yield "its configuration", "provider.CheckConfig", {"urn": urn, "news": {"version": version}}
    configure = {"args": {"version": version}, "acceptSecrets": True, "acceptResources": True, "sendsOldInputs": True}
    yield "configured", "provider.Configure", configure


def _check(title: str, kind: str, news: Request) -> tuple[str, str, Request]:
    return f"{title} is checked", "provider.Check", _of(kind, news=news)


def _create(title: str, kind: str, properties: Request) -> Iterator[tuple[str, str, Request]]:
    yield f"{title} is planned", "provider.Create", _of(kind, properties=properties, preview=True)
    yield f"{title} is created", "provider.Create", _of(kind, properties=properties)


def _diff(title: str, kind: str, old: Request, state: Request, news: Request) -> tuple[str, str, Request]:
    return (
        f"{title} is compared",
        "provider.Diff",
        _of(kind, id="it01234567", olds={**old, **state}, oldInputs=old, news=news),
    )


def _update(title: str, kind: str, olds: Request, old: Request, news: Request) -> Iterator[tuple[str, str, Request]]:
    rest = {"id": "it01234567", "olds": olds, "oldInputs": old, "news": news}
    yield f"{title}: planned", "provider.Update", _of(kind, **rest, preview=True)
    yield f"{title}: done", "provider.Update", _of(kind, **rest)


def _delete(title: str, kind: str, properties: Request) -> tuple[str, str, Request]:
    return f"{title} is deleted", "provider.Delete", _of(kind, id="it01234567", properties=properties)


_DONE = {"stdout": "before", "stderr": "errors before"}


def command() -> Iterator[tuple[str, str, Request]]:
    """Local and remote commands, through their lives."""
    yield from _start("command", "1.2.1")
    simple = {"create": "echo out; echo err >&2"}
    rich = {
        "create": "cat; echo $WORD; pwd | tail -c 1 | wc -l; printf last",
        "environment": {"WORD": "word"},
        "interpreter": ["/bin/bash", "-c"],
        "dir": "@DIRECTORY@",
        "stdin": secret("from stdin\n"),
        "logging": "none",
        "addPreviousOutputInEnv": False,
        "delete": "true",
    }
    previous = {"create": "echo $PULUMI_COMMAND_STDOUT and $PULUMI_COMMAND_STDERR"}
    failing = {"create": 'echo said; exit 3; echo "never"'}
    yield _check("a local command", _LOCAL, simple)
    yield _check("a local command with all", _LOCAL, rich)
    yield _check("a local command that is not known", _LOCAL, {"create": UNKNOWN})
    yield _check("a local command with a property of another", _LOCAL, {**simple, "connection": {"host": "a"}})
    yield from _create("a local command", _LOCAL, simple)
    yield from _create("a local command with all", _LOCAL, rich)
    yield from _create("nothing to run", _LOCAL, {"delete": "true"})
    yield from _create("a local command with logging of one stream", _LOCAL, {**simple, "logging": "stderr"})
    yield from _create("a failing local command", _LOCAL, failing)
    yield from _create("a local command that ends by a signal", _LOCAL, {"create": "kill -TERM $$"})
    yield from _both_changes(_LOCAL, simple)
    yield from _update(
        "an update from create", _LOCAL, {**previous, **_DONE}, previous, {**previous, "logging": "none"}
    )
    without = {**previous, "addPreviousOutputInEnv": False}
    yield from _update("an update without the outputs before", _LOCAL, {**previous, **_DONE}, previous, without)
    with_update = {**simple, "update": "echo updated"}
    yield from _update("an update of its own", _LOCAL, {**simple, **_DONE}, simple, with_update)
    nothing = {"delete": "true"}
    yield from _update("an update with nothing to run", _LOCAL, {**nothing, **_DONE}, nothing, {"delete": "false"})
    yield from _update("a failing update", _LOCAL, {**simple, **_DONE}, simple, failing)
    yield _delete("nothing", _LOCAL, {**simple, **_DONE})
    yield _delete("a local command", _LOCAL, {**simple, **_DONE, "delete": "echo gone after $PULUMI_COMMAND_STDOUT"})
    yield _delete("a local command that fails then", _LOCAL, {**simple, **_DONE, "delete": "echo no; exit 4"})

    reached = {
        "host": "127.0.0.1",
        "port": "@PORT@",
        "user": "tester",
        "privateKey": secret("@USER_KEY@"),
        "hostKey": "@HOST_KEY@",
        "dialErrorLimit": 0,
        "perDialTimeout": 15,
    }
    at = {"connection": secret(reached), "addPreviousOutputInEnv": False}
    yield _check("a remote command", _REMOTE, {**simple, "connection": {"host": "h"}})
    proxied = {"host": "h", "privateKey": "k", "proxy": {"host": "p", "password": "w"}}
    yield _check("a remote command through a proxy", _REMOTE, {**simple, "connection": secret(proxied)})
    yield _check("a remote command whose connection is not known", _REMOTE, {**simple, "connection": UNKNOWN})
    yield _check("a remote command whose host is not known", _REMOTE, {**simple, "connection": {"host": UNKNOWN}})
    yield _check("a remote command without a connection", _REMOTE, simple)
    yield _check("a remote command without a host", _REMOTE, {**simple, "connection": {"user": "root"}})
    yield _check("a remote command with an interpreter", _REMOTE, {**simple, "connection": {"host": "h"}, "dir": "/"})
    yield from _create("a remote command", _REMOTE, {**simple, **at})
    by_stdin = {**at, "create": "bash -s -- title", "stdin": secret("{\ncat\n}; exit\nthe rest\n"), "logging": "none"}
    yield from _create("a remote script from stdin", _REMOTE, by_stdin)
    yield from _create("a failing remote command", _REMOTE, {**failing, **at})
    yield from _create("nothing to run there", _REMOTE, {**at, "delete": "true"})
    other = {**reached, "hostKey": "@OTHER_KEY@"}
    yield from _create("a command on an unknown host", _REMOTE, {**simple, "connection": secret(other)})
    yield from _both_changes(_REMOTE, {**simple, **at})
    yield from _update(
        "a remote update", _REMOTE, {**simple, **at, **_DONE}, {**simple, **at}, {**at, "create": "echo new"}
    )
    yield from _update(
        "a failing remote update", _REMOTE, {**simple, **at, **_DONE}, {**simple, **at}, {**failing, **at}
    )
    yield _delete("a remote command", _REMOTE, {**simple, **at, **_DONE, "delete": "echo gone"})
    yield _delete("a remote command that fails then", _REMOTE, {**simple, **at, **_DONE, "delete": "exit 4"})


def _both_changes(kind: str, old: Request) -> Iterator[tuple[str, str, Request]]:
    """Diffs of both kinds of commands."""
    yield _diff("an unchanged command", kind, old, _DONE, old)
    for title, change in {
        "another create": {"create": "echo other"},
        "a create that is not known": {"create": UNKNOWN},
        "a new delete": {"delete": "true"},
        "a new update": {"update": "true"},
        "another logging": {"logging": "none"},
        "a new stdin": {"stdin": "a"},
        "a new secret stdin": {"stdin": secret("a")},
        "new triggers": {"triggers": ["a"]},
        "a new variable": {"environment": {"A": "b"}},
    }.items():
        yield _diff(title, kind, old, _DONE, {**old, **change})
    yield _diff("another trigger", kind, {**old, "triggers": ["a", "b"]}, _DONE, {**old, "triggers": ["a", "c"]})
    yield _diff("one trigger less", kind, {**old, "triggers": ["a", "b"]}, _DONE, {**old, "triggers": ["a"]})
    yield _diff("no stdin any more", kind, {**old, "stdin": "a"}, _DONE, old)
    yield _diff("another secret stdin", kind, {**old, "stdin": secret("a")}, _DONE, {**old, "stdin": secret("b")})
    environment = {"environment": {"A": "b", "C": "d"}}
    yield _diff("another variable", kind, {**old, **environment}, _DONE, {**old, "environment": {"A": "e"}})
    yield _diff(
        "no create any more", kind, {**old, "delete": "a"}, _DONE, {k: v for k, v in old.items() if k != "create"}
    )


_KEY, _REQUEST = "tls:index/privateKey:PrivateKey", "tls:index/certRequest:CertRequest"
_SELF, _LOCALLY = "tls:index/selfSignedCert:SelfSignedCert", "tls:index/locallySignedCert:LocallySignedCert"


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def tls(ask: Any) -> Iterator[tuple[str, str, Request]]:
    """Keys, requests and certificates. Certificates are signed by what was answered before."""
    yield from _start("tls", "5.6.2")
    keys: dict[str, Request] = {
        "a key": {"algorithm": "ECDSA", "ecdsaCurve": "P256"},
        "a key of another algorithm": {"algorithm": "ED25519"},
        "a key of RSA": {"algorithm": "RSA", "rsaBits": 2048},
    }
    for title, news in keys.items():
        yield _check(title, _KEY, news)
        yield from _create(title, _KEY, news)
    yield _check("an unknown algorithm", _KEY, {"algorithm": "DSA"})
    yield _check("an unknown curve", _KEY, {"algorithm": "ECDSA", "ecdsaCurve": "P999"})
    key, ca_key = _new_key(), _new_key()
    subject = {"commonName": "a", "organization": "system:nodes"}
    names = {"dnsNames": ["a.example", "b"], "ipAddresses": ["10.0.0.1", "127.0.0.1"]}
    request = {"privateKeyPem": secret(key), "subject": subject, **names}
    yield _check("a request", _REQUEST, request)
    yield _check("a wrong address", _REQUEST, {**request, "ipAddresses": ["10.0.0.256"]})
    yield from _create("a request", _REQUEST, request)
    made = ask("provider.Create", _of(_REQUEST, properties=request))["answer"]["properties"]
    ca = {
        "privateKeyPem": secret(ca_key),
        "subject": {"commonName": "authority"},
        "isCaCertificate": True,
        "setSubjectKeyId": True,
        "validityPeriodHours": 48,
        "allowedUses": ["cert_signing", "crl_signing", "digital_signature"],
    }
    yield _check("an authority", _SELF, ca)
    yield _check("an unknown use", _SELF, {**ca, "allowedUses": ["nothing"]})
    yield _check("an authority without a time", _SELF, {k: v for k, v in ca.items() if k != "validityPeriodHours"})
    yield from _create("an authority", _SELF, ca)
    authority = ask("provider.Create", _of(_SELF, properties=ca))["answer"]["properties"]
    leaf = {
        "caCertPem": authority["certPem"],
        "caPrivateKeyPem": secret(ca_key),
        "certRequestPem": made["certRequestPem"],
        "validityPeriodHours": 24,
        "earlyRenewalHours": 6,
        "allowedUses": ["digital_signature", "key_encipherment", "server_auth", "client_auth"],
    }
    yield _check("a leaf", _LOCALLY, leaf)
    yield _check("a leaf whose request is not known", _LOCALLY, {**leaf, "certRequestPem": UNKNOWN})
    yield from _create("a leaf", _LOCALLY, leaf)
    yield from _create("a leaf by what is no key", _LOCALLY, {**leaf, "caPrivateKeyPem": secret("no key")})
    signed = ask("provider.Create", _of(_LOCALLY, properties=leaf))["answer"]["properties"]
    far = {"validityStartTime": "2026-01-01T00:00:00Z", "validityEndTime": "2099-01-01T00:00:00Z"}
    past = {"validityStartTime": "2020-01-01T00:00:00Z", "validityEndTime": "2020-01-02T00:00:00Z"}
    yield _tls_diff("an unchanged leaf", leaf, {**signed, **far}, leaf)
    yield _tls_diff("a leaf that has expired", leaf, {**signed, **past}, leaf)
    yield _tls_diff("a leaf for a longer time", leaf, {**signed, **far}, {**leaf, "validityPeriodHours": 25})
    yield _tls_diff("a leaf renewed earlier", leaf, {**signed, **far}, {**leaf, "earlyRenewalHours": 7})
    yield _tls_diff("a leaf of other uses", leaf, {**signed, **far}, {**leaf, "allowedUses": ["server_auth"]})
    yield _tls_diff("a leaf of an unknown request", leaf, {**signed, **far}, {**leaf, "certRequestPem": UNKNOWN})
    changed = {**leaf, "earlyRenewalHours": 7}
    rest = {"id": signed["id"], "olds": {**signed, **far}, "oldInputs": leaf, "news": changed}
    yield "an earlier renewal: done", "provider.Update", _of(_LOCALLY, **rest)
    yield "a leaf is deleted", "provider.Delete", _of(_LOCALLY, id=signed["id"], properties=signed)


def _tls_diff(title: str, old: Request, state: Request, news: Request) -> tuple[str, str, Request]:
    rest = {"id": state["id"], "olds": state, "oldInputs": old, "news": news}
    return f"{title} is compared", "provider.Diff", _of(_LOCALLY, **rest)


_PROGRAMS = {
    "a program": "import pulumi\nprint('said')\npulumi.export('a', pulumi.Config().require('word'))\n",
    "an error for the user": "import pulumi\nraise pulumi.RunError('the moon is too near')\n",
    "an unexpected error": "def deep():\n    raise KeyError('no such word')\n\ndeep()\n",
    "an exit": "import sys\nsys.exit(0)\n",
    "a failing exit": "import sys\nsys.exit(3)\n",
    "a message at the exit": "import sys\nsys.exit('nothing to do')\n",
    "arguments": "import pulumi, sys, pathlib\npulumi.export('argv', sys.argv[1:])\n"
    "pulumi.export('here', pathlib.Path.cwd() == pathlib.Path(__file__).parent)\n",
    "a component": "import pulumi\npulumi.ComponentResource('my:own:Kind', 'it', {'a': 1})\n",
}


def language() -> Iterator[tuple[str, str, Request]]:
    """Programs of all ends."""
    yield "its version", "language.GetPluginInfo", {}
    info = {"rootDirectory": "@DIRECTORY@", "programDirectory": "@DIRECTORY@", "entryPoint": ".", "options": {}}
    for title, program in _PROGRAMS.items():
        run = {
            "project": "exchange",
            "stack": "test",
            "organization": "organization",
            "pwd": "@DIRECTORY@",
            "program": "@DIRECTORY@",
            "args": ["one"] if title == "arguments" else [],
            "config": {"exchange:word": "word"},
            "dryRun": True,
            "parallel": 4,
            "monitorAddress": "@ENGINE@",
            "info": info,
        }
        yield f"{title} is run", "language.Run", {**run, "program text": program}
    yield "cancelled", "language.Cancel", {}


def main(name: str, *executable: str) -> None:
    """Ask a plugin everything, and write the recording."""
    found = []
    with tempfile.TemporaryDirectory() as directory, Places(Path(directory), executable) as places:
        requests = tls(places.ask) if name == "tls" else {"command": command, "language": language}[name]()
        for title, method, request in requests:
            found.append(
                {"title": title, "method": method, "request": request, "found": asked(places, method, request)}
            )
    lines = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
    (Path(__file__).parent / "recordings" / f"{name}.json").write_text(lines + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
