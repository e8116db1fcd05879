"""The one door for artifacts: each comes from its official release, or is made here from sources.

Each kind of artifact has two providers, one for each origin. `Door` decides which of them an artifact comes from (by
TOOLCHAIN, else by whether the host of its release can be reached), says what is built and why before anything begins,
and has the artifacts fetched. No other code asks where an artifact comes from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from toolchain.from_source import build_times
from toolchain.origin import Release
from toolchain.progress import Part, Report

Artifact = TypeVar("Artifact")


@dataclass(frozen=True, kw_only=True)
class Provider(Generic[Artifact]):
    """One way to get the artifacts of a kind.

    Args:
        fetch: has an artifact in its place, complete and verified; raises ToolchainError. It gets the report of the
            progress, and the part of set-up that it belongs to.
        at_once: how many may be fetched at the same time.
    """

    fetch: Callable[[Artifact, Report, Part], None]
    at_once: int = 1


@dataclass(frozen=True, kw_only=True)
class Door(Generic[Artifact]):
    """All artifacts of one kind.

    Args:
        releases, sources: the providers.
        release_of: where an artifact's official release is.
        name_of: what people call what is built for it.
        how: from what it is built, e.g. "from Go modules".
    """

    releases: Provider[Artifact]
    sources: Provider[Artifact]
    release_of: Callable[[Artifact], Release]
    name_of: Callable[[Artifact], str]
    how: str

    def is_released(self, artifact: Artifact) -> bool:
        """Whether it comes from its release; the host is asked once.

        Raises:
            ToolchainError: the host's certificate is not trusted.
        """
        return self.release_of(artifact).why_not() is None

    def fetch(self, report: Report, whole: Part, artifacts: Sequence[Artifact]) -> None:
        """Have artifacts in their places.

        Args:
            report: shows the progress, and first says what is built.
            whole: the part of set-up that this belongs to.
            artifacts: what is not there yet.

        Raises:
            ToolchainError: one cannot be had, or its checksum is wrong.
        """
        released: list[Artifact] = []
        built: list[Artifact] = []
        reasons: dict[str, list[str]] = {}
        for artifact in artifacts:
            if why := self.release_of(artifact).why_not():
                built.append(artifact)
                reasons.setdefault(why, []).append(self.name_of(artifact))
            else:
                released.append(artifact)
        # All of it before anything begins: the user may want to stop here.
        for why, names in reasons.items():
            build_times.announce(report, why, list(dict.fromkeys(names)), how=self.how)
        if len(artifacts) > 1:
            whole.say(f"{len(released)} to download, {len(built)} to build")
        _all(self.releases, released, report, whole)
        _all(self.sources, built, report, whole)


def _all(provider: Provider[Artifact], artifacts: Sequence[Artifact], report: Report, whole: Part) -> None:
    if provider.at_once == 1:
        for artifact in artifacts:
            provider.fetch(artifact, report, whole)
        return
    with ThreadPoolExecutor(provider.at_once) as pool:
        fetches = [pool.submit(provider.fetch, artifact, report, whole) for artifact in artifacts]
        try:
            for fetch in fetches:
                fetch.result()
        except BaseException:
            # One failed, or the user wants to stop: the others need not come to their end. What has come is kept.
            report.cancel()
            pool.shutdown(cancel_futures=True)
            raise
