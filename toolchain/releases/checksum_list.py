"""The lists of checksums that projects publish beside their releases."""

import re

# `sum  name`; some write `./name`, or `*name`. Lists with a signature have other lines, too.
_LINE = re.compile(r"([0-9a-fA-F]{40,128})\s+\*?(?:\./)?(\S+)")


def sum_of(text: str, name: str) -> str | None:
    """The checksum of one file, in lower case: the list's, or the whole text where that is one sum without a name.

    None where there is none, or more than one.
    """
    if re.fullmatch(r"\s*[0-9a-fA-F]{40,128}\s*", text):
        return text.strip().lower()
    lines = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    sums = {line[1].lower() for line in lines if line and line[2] == name}
    return sums.pop() if len(sums) == 1 else None
