"""README.md and docs/: links, pages, the example component; and words that the project does not use."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import versions

_CHECKOUT = Path(__file__).parents[2]
_PAGES = sorted([*_CHECKOUT.glob("*.md"), *(_CHECKOUT / "docs").rglob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s]*)\)")


def text_of(page: Path) -> str:
    """A page without its code, in which `[x](y)` is no link."""
    return re.sub(r"^ *(`{3,}).*?^ *\1$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What the forge makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor) of each relative link."""
    found = [target.partition("#") for target in _LINK.findall(text_of(page))]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in found]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{target.name}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached = {_CHECKOUT / "README.md"}
    new = set(reached)
    while new:
        new = {target for page in new for target, _ in links(page) if target.suffix == ".md"} - reached
        reached |= new
    assert not set(_PAGES) - reached


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((_CHECKOUT / "README.md").read_text().splitlines()) <= 250


def test_the_example_component_renders_its_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/add-a-component.md, with the image that the page pins."""
    page = (_CHECKOUT / "docs" / "add-a-component.md").read_text()
    component, line, test = re.findall(r"```python\n(.*?)```", page, re.S)
    pinned = re.search(r"^ {2}metrics-server:\n((?: {4}.*\n)+)", page, re.M)
    assert pinned is not None
    image = dict(row.strip().split(": ") for row in pinned[1].splitlines())
    names: dict[str, Any] = {"__name__": "components.metrics_server"}
    monkeypatch.setitem(
        versions.pins().images,
        "metrics-server",
        replace(versions.pins().images["coredns"], **image, digest=None),  # type: ignore[arg-type]
    )
    exec(compile(component, "metrics_server.py", "exec"), names)
    documents = names["metrics_server"]()
    assert [document["kind"] for document in documents][-2:] == ["Deployment", "APIService"]
    (container,) = documents[-2]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.k8s.io/metrics-server/metrics-server:v0.8.0"
    assert line.strip().startswith('MetricsServer("metrics-server", ')
    compile(test, "test_metrics_server.py", "exec")


# Each has one plain word instead: again, unhealthy, repair, anonymous client, the Pulumi host, trust, timeout, kubeadm.
_UNUSED = re.compile(
    r"\b(anew|unwell|mend(s|ed|ing)?|strangers?|acquainted|(your|this) host|believe[sd]?|patience|the easy way"
    r"|lab that is up)\b",
    re.I,
)
# Text that is an input of resources of running labs: another text would update them.
_KEPT = ("on this host the name hardway-", "# preflight on this host")


def test_words_with_a_plain_replacement_are_not_used() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_CHECKOUT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in listed.split("\0"):
        file = _CHECKOUT / name
        if file == Path(__file__).resolve() or not file.is_file() or file.suffix in (".json", ".sum", ".zst", ".gz"):
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            for kept in _KEPT:
                line = line.replace(kept, "")
            found += [f"{name}:{number}: {word[0]}" for word in _UNUSED.finditer(line)]
    assert found == []
