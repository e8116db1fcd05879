"""A name server that knows one name. usage: name_server.py ADDRESS NAME ANSWER"""

import ipaddress
import socket
import sys

_HEADER, _END = 12, 5
_A = b"\0\1\0\1"


def main() -> None:
    """Answer for ever."""
    address, name, answer = sys.argv[1:]
    known = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        query, asker = server.recvfrom(4096)
        end = query.index(b"\0", _HEADER) + _END
        asked, kind = query[_HEADER : end - 4].lower(), query[end - 4 : end]
        found = asked == known and kind == _A
        # Name error for all other names: CoreDNS's own probe (the root's NS) wants any answer.
        header = query[:2] + (b"\x81\x80" if asked == known else b"\x81\x83") + b"\0\1" + bytes([0, found]) + b"\0" * 4
        record = b"\xc0\x0c" + _A + b"\0\0\0\x3c\0\4" + ipaddress.IPv4Address(answer).packed if found else b""
        server.sendto(header + query[_HEADER:end] + record, asker)


if __name__ == "__main__":
    main()
