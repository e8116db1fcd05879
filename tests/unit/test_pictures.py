"""The pictures of the documentation are what the program does."""

from lab import pictures
from unit.conftest import program


def test_the_pictures_are_those_of_the_program() -> None:
    """A certificate, or an order, that the page does not have: `make docs` draws it again."""
    assert pictures.PAGE.read_text() == pictures.drawn(program("dev"))


def test_the_page_has_them() -> None:
    """A comparison of nothing with nothing."""
    page = pictures.PAGE.read_text()
    for text in ("ca0 --> pki_admin[", "Host --> Etcd", 'subgraph chapter8["DNS and readiness"]'):
        assert text in page
    assert pictures.pki(program("dev")).count("-->") == len(program("dev").of_type(pictures.SIGNED)) > 10
