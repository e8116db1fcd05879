import pytest
import yaml

from toolchain.errors import ToolchainError
from toolchain.releases.versions_file import Edit, changed

TEXT = """# What is pinned.

etcd:
  default: 3.6.14
  versions:
    3.6.14:
      etcd:
        amd64: one

# What makes a lab.
tools:
  plugins:
    # For every lab.
    tls:
      version: 5.6.2
    # For some.
    gcp:
      version: 10.2.0
  flow: {a: b}
"""


def test_a_text_is_replaced() -> None:
    assert changed(TEXT, [Edit(keys=("etcd", "default"), value="3.6.15")]) == TEXT.replace(
        "default: 3.6.14", "default: 3.6.15"
    )


def test_a_mapping_is_replaced_and_what_is_around_it_stays() -> None:
    after = changed(TEXT, [Edit(keys=("etcd", "versions"), value={"3.6.15": {"etcd": {"amd64": "two", "arm64": "x"}}})])
    was = "    3.6.14:\n      etcd:\n        amd64: one\n"
    assert was in TEXT
    assert after == TEXT.replace(was, "    3.6.15:\n      etcd:\n        amd64: two\n        arm64: x\n")


def test_what_is_new_comes_last_before_the_comment_of_the_next() -> None:
    after = changed(TEXT, [Edit(keys=("tools", "plugins", "tls", "archive"), value={"amd64": "x"})])
    assert after == TEXT.replace("5.6.2\n", "5.6.2\n      archive:\n        amd64: x\n")


def test_what_is_new_comes_first_where_that_is_asked_for() -> None:
    after = changed(TEXT, [Edit(keys=("etcd", "versions", "3.6.15"), value={"etcd": {"amd64": "two"}}, first=True)])
    assert after == TEXT.replace("versions:\n", "versions:\n    3.6.15:\n      etcd:\n        amd64: two\n")


def test_what_is_the_last_of_its_block_stays_above_the_empty_line() -> None:
    after = changed(TEXT, [Edit(keys=("etcd", "versions", "3.6.15"), value="x")])
    assert "amd64: one\n    3.6.15: x\n\n# What makes" in after


def test_a_text_that_would_be_a_number_is_quoted() -> None:
    after = changed(TEXT, [Edit(keys=("etcd", "default"), value="1.35")])
    assert yaml.safe_load(after)["etcd"]["default"] == "1.35"


@pytest.mark.parametrize(
    "keys", [("runc", "default"), ("tools", "flow", "a"), ("tools", "plugins", "libvirt", "version")]
)
def test_another_layout_is_an_error(keys: tuple[str, ...]) -> None:
    with pytest.raises(ToolchainError, match=rf"no single line for {'.'.join(keys)}"):
        changed(TEXT, [Edit(keys=keys, value="x")])
