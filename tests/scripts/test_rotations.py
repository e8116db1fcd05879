"""rotations.sh, run by a real bash: tokens and Secrets of another key are seen, and a query that fails is no answer."""

import base64
import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lab.certificate_authority import new_key
from toolchain import paths

FUNCTIONS = paths.checkout() / "components" / "rotations.sh"


def bash(script: str, *, told: str = "") -> subprocess.CompletedProcess[str]:
    prelude = 'set -euo pipefail\ndie() { echo "$*" >&2; exit 1; }\n'
    return subprocess.run(
        ["bash", "-c", f"{prelude}{FUNCTIONS.read_text()}\n{script}"],
        input=told,
        capture_output=True,
        text=True,
        check=False,
    )


def key_id(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def token(kid: str) -> str:
    head = f'{{"alg":"ES256","kid":"{kid}"}}'
    return base64.urlsafe_b64encode(head.encode()).decode().rstrip("=") + ".e30.x"


def test_a_token_is_known_by_the_id_of_its_key() -> None:
    new, old = new_key(), new_key()
    pem = "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in (new, old)
    )
    assert bash("key_id", told=pem).stdout == key_id(new)
    for kid, expected in ((key_id(new), 0), (key_id(old), 1), ("", 1)):
        assert bash(f"signed_with '{key_id(new)}' '{token(kid)}'").returncode == expected


@pytest.mark.parametrize(
    ("values", "status"),
    [("k8s:enc:secretbox:v1:key-1.1:aa\nk8s:enc:secretbox:v1:key-1.1:bb\n", 0), ("k8s:enc:secretbox:v1:key1:aa\n", 1)],
)
def test_secrets_of_another_key_are_seen_in_etcd(values: str, status: int) -> None:
    number = values.count("\n")
    false = (
        'api() { case "$*" in *"-o name") echo secret/a ;; *replace*) cat >/dev/null ;; *) echo "{}" ;; esac; }\n'
        f'ctl() {{ case "$*" in *--keys-only) for _ in $(seq {number}); do echo /registry/secrets/a/b; echo; done ;;'
        f" *) printf '%s' '{values}' ;; esac; }}\n"
    )
    assert bash(f"{false}secrets_rewritten 'k8s:enc:secretbox:v1:key-1\\.[0-9]*:'").returncode == status


@pytest.mark.parametrize("fails", ["api", "ctl"])
def test_a_query_that_fails_is_not_an_answer(fails: str) -> None:
    other = {"api": "ctl", "ctl": "api"}[fails]
    false = f"{fails}() {{ return 1; }}\n{other}() {{ cat >/dev/null </dev/null; }}\n"
    assert bash(f"{false}if secrets_rewritten x; then exit 0; else exit 3; fi").returncode == 3
