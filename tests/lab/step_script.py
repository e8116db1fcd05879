"""What a step sends on standard input, taken apart."""

_OPENING = "{\n"
_CLOSING = "}; exit # What follows is input of the script.\n"


def script_of(stdin: str) -> str:
    """The script that the machine's bash runs."""
    return _parts(stdin)[0]


def input_of(stdin: str) -> str:
    """What the script finds on its standard input: secrets, or the library."""
    return _parts(stdin)[1]


def _parts(stdin: str) -> tuple[str, str]:
    assert stdin.startswith(_OPENING)
    script, closing, rest = stdin.removeprefix(_OPENING).partition(_CLOSING)
    assert closing, "the script has no end"
    return script, rest
