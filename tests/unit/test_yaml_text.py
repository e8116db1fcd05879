"""YAML that libyaml writes is what PyYAML's own Python would write: a running lab must not get other files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config import yaml_text

CONFIG = Path(yaml_text.__file__).parent
DOCUMENTS: list[Any] = [
    {"b": 1, "a": ["yes", "1e3", "0x10", "null", "~", "", " ", "#", "a: b", "a #b", "- a", "*", "&a", "!t", "%", "@"]},
    {"lines": "a\n  b\n\nc\n", "end": "a\nb", "tabs": "a\tb", "crlf": "a\r\nb", "spaces": "  a  ", "unicode": "é☃"},
    {"long": "word " * 60, "base64": "QUJD" * 500, "quoted": 'it\'s "so": ' * 20, "colon": "http://a:1/b?c=d"},
    {"empty": {}, "none": None, "list": [], "nested": [[1, 2.5], {"a": [True, {"b": False}]}], "number": "10"},
    {1: "one", "2026-11-30": "2026-11-30", "10:30:00": "22:01", "=": "<<"},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_is_written_as_by_python_and_read_back(document: Any) -> None:
    assert yaml_text.dump(document) == yaml.safe_dump(document, sort_keys=False)
    assert yaml_text.load(yaml_text.dump(document)) == document


def test_documents_are_written_as_by_python() -> None:
    assert yaml_text.dump_all(DOCUMENTS) == yaml.safe_dump_all(DOCUMENTS, sort_keys=False)


@pytest.mark.parametrize("name", ["versions.yaml", "flags.yaml"])
def test_the_projects_files_say_the_same(name: str) -> None:
    text = (CONFIG / name).read_text()
    assert yaml_text.load(text) == yaml.safe_load(text)
