"""The pictures of docs/pictures.md that are drawn from a run of the program: who issues what, and what waits for what.

`PYTHONPATH=.:tests python -m lab.pictures` writes them; a test compares them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from config.chapters import CHAPTERS
from unit.mocked_engine import Registered, Run

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"
SIGNED = "tls:index/locallySignedCert:LocallySignedCert"
_PICTURE = re.compile(r"(?<=<!-- picture: )(\w+)( -->\n```mermaid\n)(.*?)(?=```)", re.S)


def pki(run: Run) -> str:
    """A flowchart from each CA to the certificates that it has issued."""
    lines = ["flowchart LR"]
    for number, ca in enumerate(("kubernetes-ca", "etcd-ca", "front-proxy-ca")):
        lines.append(f"  ca{number}([{ca}])")
        issued = [each for each in run.of_type(SIGNED) if each.inputs["caCertPem"] == f"CERTIFICATE-pki-{ca}"]
        for each in sorted(issued, key=lambda one: one.name):
            subject = run.named(each.name, "tls:index/certRequest:CertRequest").inputs["subject"]
            group = f"<br>O={subject['organization']}" if "organization" in subject else ""
            node = re.sub(r"\W", "_", each.name)
            lines.append(f'  ca{number} --> {node}["{each.name}<br>CN={subject["commonName"]}{group}"]')
    return "".join(f"{line}\n" for line in lines)


def resources(run: Run) -> str:
    """A flowchart of the components, by chapter: an arrow leads to what waits."""
    kinds = {urn: kind for urn, kind in ((each.urn, _kind(run, each)) for each in run.resources) if kind}
    waits: dict[str, set[str]] = {kind: set() for kind in kinds.values()}
    for each in run.resources:
        if each.urn in kinds:
            before = {kinds[urn] for urn in each.request.dependencies if urn in kinds}
            waits[kinds[each.urn]] |= before - {kinds[each.urn]}
    lines = ["flowchart TB"]
    for number, chapter in enumerate(each for each in CHAPTERS if waits.keys() & set(each.components)):
        members = [kind for kind in chapter.components if kind in waits]
        lines += [f'  subgraph chapter{number}["{chapter.title}"]', *(f"    {kind}" for kind in members), "  end"]
    for kind in sorted(waits):
        lines += [f"  {other} --> {kind}" for other in sorted(waits[kind]) if not _through_others(waits, kind, other)]
    missing = waits.keys() - {kind for each in CHAPTERS for kind in each.components}
    assert not missing, f"no chapter has {missing}"
    return "".join(f"{line}\n" for line in lines)


def _kind(run: Run, resource: Registered) -> str:
    """The kind of the outermost component that a resource belongs to; empty for one that belongs to none."""
    known = {each.urn for each in run.resources}
    while resource.request.parent in known:
        resource = run.at(resource.request.parent)
    return resource.type.rpartition(":")[2] if resource.is_component else ""


def _through_others(waits: Mapping[str, Iterable[str]], kind: str, before: str) -> bool:
    """Whether `kind` waits for `before` through others already."""
    seen: set[str] = set()
    waiting = [other for other in waits[kind] if other != before]
    while waiting:
        here = waiting.pop()
        if here == before:
            return True
        if here not in seen and here != kind:
            seen.add(here)
            waiting += waits[here]
    return False


_DRAWN: Mapping[str, Callable[[Run], str]] = {"pki": pki, "resources": resources}


def drawn(run: Run) -> str:
    """The page with its pictures as they are now."""
    return _PICTURE.sub(lambda found: f"{found[1]}{found[2]}{_DRAWN[found[1]](run)}", PAGE.read_text())


if __name__ == "__main__":
    from unit.conftest import program

    PAGE.write_text(drawn(program("dev")))
