"""Kubernetes' conformance tests as programs of this machine: upstream's, or built from its Go modules.

They stay in the cache, below the version and what they were made of: a killed download or build leaves nothing there.
"""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import gomodule, sources
from toolchain.ledger import Ledger
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.providers import Door, Provider
from toolchain.releases.download import download
from toolchain.versions import architecture

SUITE, RUNNER = "e2e.test", "ginkgo"
_TITLE = "conformance tests"


def ensure(report: Report, version: str, *, releases: str = "https://dl.k8s.io") -> Path:
    """Have the test binary and the program that runs it in several processes.

    Args:
        report: shows the progress.
        version: of Kubernetes, e.g. 1.36.4.
        releases: where upstream's releases are.

    Returns:
        The directory that has both, as SUITE and RUNNER.

    Raises:
        ToolchainError: they can neither be downloaded nor built.
    """
    programs = _Programs(version, releases)
    with report.part(f"{_TITLE} of Kubernetes {version}") as part:
        if programs.home is None:
            with exclusive(paths.locks() / "conformance", what=f"fetching the {_TITLE}", part=part):
                if programs.home is None:
                    programs.door.fetch(report, part, [version])
        else:
            part.found()
    assert programs.home is not None
    return programs.home


class _Programs:
    """The programs of one version, from either origin."""

    def __init__(self, version: str, releases: str) -> None:
        self._directory = paths.cache() / "conformance"
        self._ledger = Ledger(self._directory)
        self._version = version
        self._archive = f"dl.k8s.io/v{version}/kubernetes-test-linux-{architecture()}.tar.gz"
        self._url = f"{releases}/{self._archive.partition('/')[2]}"

    @property
    def home(self) -> Path | None:
        """Where they are; None where they are not there yet."""
        candidates = []
        if origin.permits(Origin.UPSTREAM) and (sha256 := self._ledger.locked(self._archive)):
            candidates.append(self._released(sha256))
        if origin.permits(Origin.SOURCE) and paths.modules().joinpath(self._recipe().module).exists():
            candidates.append(self._built())
        return next((home for home in candidates if home.exists()), None)

    @property
    def door(self) -> Door[str]:
        """How they are fetched."""
        return Door(
            releases=Provider(fetch=self._download),
            sources=Provider(fetch=self._build),
            release_of=lambda _: origin.released(self._url),
            name_of=lambda _: _TITLE,
            how="from Go modules",
        )

    def _recipe(self) -> gomodule.Suites:
        return sources.conformance(self._version)

    def _built(self) -> Path:
        return self._directory / f"{self._version}-{self._recipe().recipe()}"

    def _released(self, sha256: str) -> Path:
        return self._directory / f"{self._version}-{sha256[:12]}"

    def _download(self, _: str, report: Report, whole: Part) -> None:
        archive = self._directory / self._archive
        with report.part(f"{_TITLE} {self._version}", of=whole) as part:
            sha256 = download(self._url, archive, sha256=self._ledger.locked(self._archive), part=part)
            self._ledger.record(self._archive, origin=Origin.UPSTREAM, made_of=self._url)
            part.say("unpacking")
            work = _emptied(paths.scratch() / "conformance")
            with tarfile.open(archive) as tar:
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if member.isreg() and name in (SUITE, RUNNER) and (content := tar.extractfile(member)):
                        with (work / name).open("wb") as file:
                            shutil.copyfileobj(content, file)
                        (work / name).chmod(0o755)
            if missing := {SUITE, RUNNER} - {each.name for each in work.iterdir()}:
                raise ToolchainError(f"{self._url} has no {' and no '.join(sorted(missing))}.")
            _put(work, self._released(sha256))
            # Half a gigabyte; its sum stays in the ledger.
            archive.unlink()

    def _build(self, _: str, report: Report, whole: Part) -> None:
        with report.part(f"{_TITLE} {self._version} from source", of=whole) as part:
            work = _emptied(paths.scratch() / "conformance")
            gomodule.build(part, self._recipe(), work, arch=architecture())
            _put(work, self._built())


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _put(work: Path, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    work.replace(home)
