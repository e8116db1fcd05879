"""docs/by-hand.md: a lab is built up to a chapter, the next ones are done by hand, and the program takes over.

Its commands, in their order, are `up --until`, `pki export`, `ssh`, `diff` and `kubectl`. Each test needs those before.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import documents, session
from lab.commands import CHECKOUT, Ran, Started
from lab.documents import Session, Translation, is_as_recorded
from lab.documents_server import serving
from lab.session import Show

# Several `up`, of a lab that no other test can use.
pytestmark = pytest.mark.long

PAGE = CHECKOUT / "docs" / "by-hand.md"
_SECONDS = 300


class Page:
    """The page's commands on the lab, in one shell."""

    def __init__(self, shell: Session, translation: Translation) -> None:
        self._shell, self._translation = shell, translation
        text = PAGE.read_text().splitlines()
        self._sections = {
            number: line.removeprefix("## ") for number, line in enumerate(text, 1) if line.startswith("## ")
        }

    def run(self, title: str) -> None:
        """Run a section. Each command prints what the page shows, and succeeds, but for a `diff` that finds something.

        Raises:
            AssertionError: one does not.
        """
        blocks = [each for each in documents.blocks(PAGE) if self._section(each) == title and "run by" in each.marks]
        assert blocks, f"no section {title}"
        for block in blocks:
            if block.language == "bash":
                code, said = self.shell("\n".join(block.lines))
                assert (code, said) == (0, ""), f"{block.place}: {code}\n{said}"
                continue
            for recorded in block.recorded:
                code, said = self.shell(recorded.command)
                printed = self._translation.output(said).splitlines()
                shown = f"{block.place}: {recorded.command}\n{said}"
                assert is_as_recorded(recorded.output, [each for each in printed if "already there" not in each]), shown
                finds = " diff " in recorded.command and " different" in said and "|" not in recorded.command
                assert code == (1 if finds else 0), shown

    def shell(self, command: str) -> tuple[int, str]:
        """Run a command of the page's shell: its exit code and its output."""
        return self._shell.run(self._translation.command(command), seconds=_SECONDS)

    def _section(self, block: documents.Block) -> str:
        return next((title for number, title in reversed(self._sections.items()) if number < block.first), "")


@pytest.fixture(scope="module")
def page(stack: str) -> Iterator[Page]:
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as socket:
        home = Path(scratch, "home")
        home.mkdir()
        settings = session.settings_of(documents.DEFAULT_LAB)
        translation = Translation(settings, session.settings_of(stack), home=home)
        with Session(stack, home, socket) as shell:
            yield Page(shell, translation)


def up(stack: str, show: Show, *options: str) -> Ran:
    done = Started("up", *options, show=show, stack=stack).wait()
    assert done.code == 0
    return done


def test_the_first_chapters(page: Page, stack: str, show: Show) -> None:
    """A lab with machines alone has no kubeconfig, and is healthy, stopped and started all the same."""
    shown = Started("preview", "--until", "machines", show=show, stack=stack).wait()
    assert shown.code == 0 and "hardway:index:Host" in shown.output and "hardway:index:Etcd" not in shown.output
    assert not (CHECKOUT / ".state" / stack / "lab.json").exists()
    up(stack, show, "--until", "machines")
    code, said = page.shell("./hardway status")
    assert code == 0 and "healthy, up to the chapter machines" in said
    assert page.shell("./hardway stop")[0] == page.shell("./hardway start")[0] == 0
    code, said = page.shell("./hardway kubectl get nodes")
    assert code == 1 and "has no kubeconfig yet" in said
    code, said = page.shell("./hardway diff etcd")
    assert code == 2 and "--until encryption" in said
    assert page.shell("./hardway diff machines")[0] == 0


def test_the_keys(page: Page) -> None:
    page.run("The keys")


def test_etcd_by_hand(page: Page) -> None:
    """Then a wrong flag, which `diff` names."""
    code, said = page.shell("./hardway diff etcd")
    assert code == 1 and "missing    unit       etcd.service" in said
    page.run("etcd")


def test_the_program_takes_over_etcd(page: Page, stack: str, show: Show) -> None:
    """Data of another user, a unit that differs, and a file of a person's own, which stays."""
    page.shell(
        "./hardway ssh controller-0 -- '. /etc/etcd/etcdctl.env; etcdctl put by hand; systemctl stop etcd;"
        " chown -R root: /var/lib/etcd/member; echo mine >/etc/etcd/mine'"
    )
    page.run("Kubeconfigs")
    assert page.shell("./hardway diff etcd")[0] == 0
    code, said = page.shell(
        "./hardway ssh controller-0 -- '. /etc/etcd/etcdctl.env; etcdctl get by; cat /etc/etcd/mine;"
        " find /var/lib/etcd ! -user etcd'"
    )
    assert (code, said) == (0, "by\nhand\nmine\n")


def test_an_earlier_chapter_is_refused(stack: str, show: Show) -> None:
    for command in ("up", "preview"):
        refused = Started(command, "--until", "etcd", show=show, stack=stack).wait()
        assert refused.code == 1 and "would delete everything after 'etcd'" in refused.output
    assert Started("status", show=show, stack=stack).wait().code == 0


def test_what_needs_a_whole_lab_says_so(page: Page) -> None:
    for command in ("replace worker-0", "rotate leaves", "snapshot", "save x", "check-network"):
        code, said = page.shell(f"./hardway {command}")
        assert code != 0 and "up to the chapter 'load-balancer'" in said, said


def test_workers_by_hand(page: Page) -> None:
    page.run("Workers")


def test_no_secret_is_printed(page: Page) -> None:
    """A key that was made by hand, and a kubeconfig with a wrong server."""
    key = "openssl genpkey -algorithm ed25519 >/var/lib/kubelet/pki/kubelet.key"
    page.shell(f"./hardway ssh worker-0 -- '{key}; sed -i s/:6443/:6444/ /etc/kubernetes/kubelet.kubeconfig'")
    code, said = page.shell("./hardway diff workers")
    assert code == 1
    assert "kubelet.key  (content differs)" in said
    assert "kubelet.kubeconfig  (server differs)" in said
    assert "PRIVATE" not in said and "data:" not in said


def test_the_program_takes_over_the_rest(page: Page, stack: str, show: Show) -> None:
    """A worker whose own kubeconfig leads nowhere is taken over. The second `up` changes nothing."""
    code, said = page.shell("./hardway ssh worker-0 -- 'grep server: /etc/kubernetes/kubelet.kubeconfig'")
    assert code == 0 and ":6444" in said, said
    up(stack, show)
    again = up(stack, show)
    assert set(again.summary) == {"unchanged"}
    assert Started("drift", show=show, stack=stack).wait().code == 0
    assert Started("status", show=show, stack=stack).wait().code == 0
