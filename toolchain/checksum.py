"""The checksum of a file, as upstream publishes it and `sha256sum` prints it."""

import hashlib
from pathlib import Path


def sha256_of(file: Path) -> str:
    """The file's sha256, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
