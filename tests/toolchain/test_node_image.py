import re
import shutil
from pathlib import Path

import pytest

from config import machine_images
from toolchain import node_image, paths
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.versions import tools


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recipe that may be changed."""
    copy = tmp_path / "node-image"
    shutil.copytree(machine_images.NODE_RECIPE, copy)
    monkeypatch.setattr(machine_images, "NODE_RECIPE", copy)
    return copy


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A container engine that has no image, and notes what it is asked."""
    program = tmp_path / "engine"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
[ "$1" != image ] || {{ echo "Error: inspecting object: $3: image not known" >&2; exit 125; }}
[ "$2" != --file ] && [ "$4" != --file ] || while read -r line; do
  case $line in FROM*) echo "$line" >> {tmp_path}/asked;; esac
done < "$(while [ "$1" != --file ]; do shift; done; echo "$2")"
"""
    )
    program.chmod(0o755)
    return program


def test_the_reference_is_of_the_recipe_alone(recipe: Path) -> None:
    before = node_image.reference()
    assert re.fullmatch(r"localhost/hardway-node:[0-9a-f]{12}", before)
    (recipe / "packages").touch()
    assert node_image.reference() == before


@pytest.mark.parametrize("file", ["packages", "customise.sh", "Containerfile"])
def test_another_recipe_is_another_image(recipe: Path, file: str) -> None:
    before = node_image.reference()
    with (recipe / file).open("a") as text:
        text.write("\n")
    assert node_image.reference() != before


def test_both_ways_make_the_same_image(recipe: Path) -> None:
    containerfile = (recipe / "Containerfile").read_text().splitlines()
    instructions = {line for line in containerfile if line.split(" ")[0] in ("CMD", "STOPSIGNAL", "ENV")}
    assert instructions == set(node_image._CHANGES)


def test_packages_are_names_only() -> None:
    assert {"systemd", "openssh-server", "conntrack", "haproxy", "nginx"} <= set(node_image.packages())
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in node_image.packages())


@pytest.mark.parametrize(("name", "options"), [("podman", "--runtime runc build"), ("docker", "build")])
def test_a_registry_that_answers_means_the_containerfile(
    name: str, options: str, engine: Path, cache: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    monkeypatch.setenv("PATH", str(tmp_path / "no-other-engine"))
    named = engine.rename(engine.with_name(name))
    image = node_image.ensure(report, str(named))
    inspect, again, build, base = (tmp_path / "asked").read_text().splitlines()
    assert inspect == again == f"image inspect {image}"
    assert base == f"FROM docker.io/library/debian:bookworm-slim@{tools().node_image_base}"
    # docker looks for a Dockerfile unless it is told.
    file = paths.scratch() / f"Containerfile-{name}"
    assert build == f"{options} --file {file} --tag {image} {machine_images.NODE_RECIPE}"


def test_the_base_is_pinned_and_nothing_else_changes(recipe: Path) -> None:
    text = (recipe / "Containerfile").read_text()
    pinned = node_image._with_pinned_base(text).splitlines()
    (line,) = [line for line in pinned if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM docker\.io/library/debian:bookworm-slim@sha256:[0-9a-f]{64}", line)
    assert [line.partition("@")[0] if line.startswith("FROM ") else line for line in pinned] == text.splitlines()


def test_the_other_engines_image_is_copied(
    engine: Path, cache: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    podman = tmp_path / "bin" / "podman"
    podman.write_text(f"#!/bin/sh\necho \"podman $*\" >>{tmp_path}/asked\n[ $1 != image ] || echo '[{{}}]'\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    image = node_image.ensure(report, str(engine.rename(engine.with_name("docker"))))
    *_, inspected, saved, loaded = (tmp_path / "asked").read_text().splitlines()
    assert inspected == f"podman image inspect {image}"
    archive = saved.split()[3]
    assert saved == f"podman save --output {archive} {image}"
    assert loaded == f"load --input {archive}"
    assert not Path(archive).exists()


def test_an_engine_out_of_order_is_not_an_absent_image(tmp_path: Path, cache: Path, report: Report) -> None:
    broken = tmp_path / "docker"
    broken.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ToolchainError, match="cannot be used: Cannot connect to the Docker daemon"):
        node_image.ensure(report, str(broken))


def test_an_absent_engine_is_named(cache: Path, report: Report) -> None:
    with pytest.raises(ToolchainError, match="no-such-engine is not installed"):
        node_image.ensure(report, "no-such-engine")
