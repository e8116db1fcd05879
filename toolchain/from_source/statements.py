"""The statements of a Python file: what a hash of code is made of, so that a changed comment makes nothing again."""

import io
import re
import tokenize
from functools import cache

_OMITTED = {tokenize.COMMENT, tokenize.NL}
_BETWEEN = {tokenize.NEWLINE: "\n", tokenize.INDENT: "{", tokenize.DEDENT: "}", tokenize.ENDMARKER: ""}
# Python 3.11 has none of these: there an f-string is one token.
_STRING_STARTS = {getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "TSTRING_START", -1)}
_STRING_ENDS = {getattr(tokenize, "FSTRING_END", -1), getattr(tokenize, "TSTRING_END", -1)}
_PLAIN_STRING = re.compile(r"(?i)[ru]?['\"]")


@cache
def statements(code: str) -> str:
    """Code without comments, docstrings and layout.

    The result is the same for each version of Python from 3.11 on: it is made of tokens, since `ast.unparse` and
    `ast.dump` change from version to version.
    """
    text = ""
    statement: list[str] = []
    for token in _tokens(code):
        if token.type in _OMITTED:
            continue
        if token.type not in _BETWEEN:
            statement.append(token.string)
            continue
        # A statement of nothing but strings is a docstring.
        if not all(map(_PLAIN_STRING.match, statement)):
            text += "\0".join(statement) + _BETWEEN[tokenize.NEWLINE]
        statement = []
        text += _BETWEEN[token.type] if token.type != tokenize.NEWLINE else ""
    return text


def _tokens(code: str) -> list[tokenize.TokenInfo]:
    """As Python 3.11 reads them: an f-string is one token."""
    lines = code.splitlines(keepends=True)
    tokens: list[tokenize.TokenInfo] = []
    begins: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in _STRING_STARTS:
            begins.append(token.start)
        elif token.type in _STRING_ENDS:
            start = begins.pop()
            if not begins:
                string = _between(lines, start, token.end)
                tokens.append(tokenize.TokenInfo(tokenize.STRING, string, start, token.end, token.line))
        elif not begins:
            tokens.append(token)
    return tokens


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    first, last = start[0] - 1, end[0] - 1
    if first == last:
        return lines[first][start[1] : end[1]]
    return "".join([lines[first][start[1] :], *lines[first + 1 : last], lines[last][: end[1]]])
