"""What a Google Cloud project has of a lab's names, and whose it is.

A run that was killed while Google made something has left it outside Pulumi's state, and its name is taken: what
carries the lab's own key (identity.py) is deleted, and the next `up` makes it again. What carries another key, or
none, is another lab's: it is named, and neither deleted nor reused.

A module of the preflight, and a program of its own (standard library only): standard input has as JSON what the state
knows and what was being made, and standard output has what was deleted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Run as a program, too: the project is not on its path then.
sys.path.insert(0, str(Path(__file__).parents[3]))

from components.substrates.gcp.api import COMPUTE, IAM, Api, NotThereError, RefusedError, SlowError, token
from components.substrates.gcp.identity import identity_of, mark_of

_KINDS = {
    "forwardingRules": "aggregated",
    "backendServices": "aggregated",
    "targetPools": "aggregated",
    "instanceGroups": "aggregated",
    "healthChecks": "aggregated",
    "httpHealthChecks": "global",
    "routes": "global",
    "instances": "aggregated",
    "firewalls": "global",
    "addresses": "aggregated",
    "subnetworks": "aggregated",
    "networks": "global",
}
"""Kinds of the Compute Engine API -> where they are listed, in the order in which they can be deleted."""
ACCOUNTS = "serviceAccounts"
_ORDER = (*_KINDS, ACCOUNTS)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A resource that Google has.

    Args:
        kind, name: of the API's.
        url: its address.
        lab, identity: what it says whose it is, see `identity.Mark`.
    """

    kind: str
    name: str
    url: str
    lab: str
    identity: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} ({f'key {self.identity}' if self.identity else 'no key'})"


def main() -> int:
    """Delete what a killed run has left; exit status 1 where that cannot be done, or is not this lab's to delete."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--fingerprint", required=True, help="of the lab's key")
    parser.add_argument("--compute", default=COMPUTE)
    parser.add_argument("--iam", default=IAM)
    args = parser.parse_args()
    key = identity_of(args.fingerprint)
    told = json.load(sys.stdin)
    known, pending = ({(kind, name) for kind, name in told[what]} for what in ("known", "pending"))
    try:
        api = Api(compute=args.compute, iam=args.iam, project=args.project, token=token())
        if pending:
            wait_for_operations(api, pending)
        there = everything(api, args.lab)
        # Labs of earlier versions have no key; the state that has made them knows them.
        others = [
            found
            for found in there
            if found.identity != key
            and ((found.kind, found.name) in pending - known or (found.identity and (found.kind, found.name) in known))
        ]
        if others:
            print("\n".join(another_labs(args.lab, args.project, key, others)), file=sys.stderr)
            return 1
        strays = [found for found in there if found.identity == key and (found.kind, found.name) not in known]
        for stray in sorted(strays, key=lambda found: _ORDER.index(found.kind)):
            api.delete(stray.url)
            print(f"{stray.kind}/{stray.name}", flush=True)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def everything(api: Api, lab: str) -> list[Found]:
    """All that has the lab's name, or one that begins with it.

    Raises:
        RefusedError: Google does not answer, refuses, or has left something out.
    """
    questions: list[Callable[[], list[Found]]] = [
        *(partial(_listed, api, kind, lab) for kind in _KINDS),
        partial(_account, api, lab),
    ]
    with ThreadPoolExecutor(max_workers=len(questions)) as threads:
        return [found for answer in threads.map(lambda ask: ask(), questions) for found in answer]


def _listed(api: Api, kind: str, lab: str) -> list[Found]:
    prefix, where = f"hardway-{lab}", _KINDS[kind]
    listed = []
    for page in api.pages(f"{api.compute}/projects/{api.project}/{where}/{kind}", filter=f'name eq "{prefix}.*"'):
        items = page.get("items") or []
        scopes = [items] if isinstance(items, list) else [scope.get(kind) or [] for scope in items.values()]
        for each in (each for scope in scopes for each in scope):
            if each["name"] == prefix or each["name"].startswith(f"{prefix}-"):
                listed.append(_found(kind, each["name"], api.own_url(each["selfLink"]), each))
    return listed


def _account(api: Api, lab: str) -> list[Found]:
    name = f"hardway-{lab}"
    url = f"{api.iam}/projects/{api.project}/{ACCOUNTS}/{name}@{api.project}.iam.gserviceaccount.com"
    try:
        return [_found(ACCOUNTS, name, url, api.get(url))]
    except NotThereError:
        return []


def _found(kind: str, name: str, url: str, described: dict[str, Any]) -> Found:
    mark = mark_of(described)
    return Found(kind=kind, name=name, url=url, lab=mark.lab, identity=mark.identity)


def wait_for_operations(api: Api, pending: set[tuple[str, str]]) -> None:
    """Wait until Google has ended what a killed run has asked for: until then it is in no list.

    Raises:
        RefusedError: Google does not answer, or has not ended in time.
    """
    url = f"{api.compute}/projects/{api.project}/aggregated/operations"
    for page in api.pages(url, filter='status != "DONE"'):
        for scope in (page.get("items") or {}).values():
            for operation in scope.get("operations") or []:
                *_, kind, name = ["", "", *str(operation.get("targetLink", "")).split("/")]
                if (kind, name) in pending:
                    try:
                        api.wait(operation)
                    except SlowError:
                        raise
                    except RefusedError:
                        # Google has made nothing.
                        continue


def another_labs(lab: str, project: str, key: str, others: Sequence[Found]) -> Iterator[str]:
    """What has the lab's names and is not the lab's, with what to do; nothing where there is none."""
    if not others:
        return
    names = ", ".join(map(str, sorted(others, key=lambda found: (_ORDER.index(found.kind), found.name))))
    yield (
        f"hardway-{lab} is another lab in the project {project}, or what is left of one: {names}; "
        f"the key in this state is {key}. It is neither deleted nor reused. To go on, do one of these: "
        f"(a) work in the checkout that made it, or destroy it from there (`./hardway destroy -s {lab}`); "
        '(b) adopt it: bring its state here (README, "Whose lab is it?"); '
        f"(c) take another name: copy Pulumi.{lab}.yaml to Pulumi.NAME.yaml; "
        "(d) if its state is lost and the lab is not needed: delete these by gcloud or in the console, in this order"
    )


if __name__ == "__main__":
    sys.exit(main())
