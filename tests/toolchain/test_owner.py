"""Files that root makes in another user's checkout, and the cache that both use. As root, like all that makes labs."""

import os
import pwd
from pathlib import Path

import pytest

from toolchain import owner, paths

UID = 47110


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a user's, with a home beside it."""
    directory, home = tmp_path / "checkout", tmp_path / "home"
    for each in (directory, home):
        each.mkdir()
        os.chown(each, UID, UID)
    (directory / ".state").mkdir()
    user = pwd.struct_passwd(("learner", "*", UID, UID, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {UID: user}[uid])
    monkeypatch.setattr(paths, "checkout", lambda: directory)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "root")
    for name in ("HARDWAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return directory


def test_what_root_made_is_the_owners(checkout: Path) -> None:
    made = [checkout / name for name in ("__pycache__/x.pyc", "Pulumi.dev.yaml", ".state/dev/ssh_key", "trust/dev")]
    with pytest.raises(RuntimeError), owner.keeps_files():
        for file in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
        raise RuntimeError("also then")
    for file in made:
        assert [(each.stat().st_uid, each.stat().st_gid) for each in (file, file.parent)] == [(UID, UID)] * 2
        assert file.stat().st_mode & 0o777 == 0o600


def test_nothing_else_changes_its_owner(checkout: Path, tmp_path: Path) -> None:
    """What links lead to, system files with a second name here, other users' files, Git's, and .venv's."""
    outside = tmp_path / "outside"
    outside.touch()
    (checkout / "link").symlink_to(outside)
    (checkout / "second-name").hardlink_to(outside)
    (checkout / "theirs").touch()
    os.chown(checkout / "theirs", 4711, 4711)
    for name in (".git", ".venv"):
        (checkout / name).mkdir()
        (checkout / name / "x").touch()
    owner.hand_over()
    assert outside.stat().st_uid == 0
    assert (checkout / "link").lstat().st_uid == UID
    assert (checkout / "theirs").stat().st_uid == 4711
    assert {(checkout / name / "x").stat().st_uid for name in (".git", ".venv")} == {0}


def test_a_checkout_of_roots_stays_roots(checkout: Path) -> None:
    os.chown(checkout, 0, 0)
    (checkout / "file").touch()
    owner.hand_over()
    assert (checkout / "file").stat().st_uid == 0
    assert paths.cache() == Path.home() / ".cache" / "hardway"
    paths.record_cache()
    assert not paths.cache_record().exists()


def test_the_cache_is_the_owners_and_stays_the_same(checkout: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "home" / ".cache" / "hardway"
    assert paths.cache() == theirs
    paths.record_cache()
    # As if root had a checkout of its own on the host, later.
    (tmp_path / "root" / ".cache" / "hardway" / "mirror").mkdir(parents=True)
    (checkout / ".state" / ".pulumi").mkdir()
    assert paths.cache() == theirs
    (theirs / "mirror").mkdir(parents=True)
    (theirs / "scratch" / "root-file-system").mkdir(parents=True)
    owner.hand_over()
    assert {each.stat().st_uid for each in (theirs, theirs.parent, theirs / "mirror")} == {UID}
    assert (theirs / "scratch" / "root-file-system").stat().st_uid == 0, "a root file system in the making"


def test_labs_that_an_earlier_version_made_with_sudo_keep_their_mirror(checkout: Path, tmp_path: Path) -> None:
    """Another path would replace their machines."""
    (checkout / ".state" / ".pulumi").mkdir()
    roots = tmp_path / "root" / ".cache" / "hardway"
    (roots / "mirror").mkdir(parents=True)
    assert paths.cache() == roots
    paths.record_cache()
    assert paths.cache_record().read_text() == f"{roots}\n"
    owner.hand_over()
    assert roots.stat().st_uid == 0


def test_an_owner_without_a_home_has_no_cache(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's user, as in a container of a CI."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert paths.cache() == Path.home() / ".cache" / "hardway"
    (checkout / "file").touch()
    owner.hand_over()
    assert (checkout / "file").stat().st_uid == UID
