"""asyncssh, imported without the libraries of further key exchanges and MACs that it can use.

It looks for them by ctypes, which runs a compiler and a linker for each, where there are any: a fifth of a second.
"""

import ctypes.util

_find_library = ctypes.util.find_library
ctypes.util.find_library = lambda name: None
try:
    import asyncssh
    from asyncssh.packet import String
finally:
    ctypes.util.find_library = _find_library

__all__ = ["String", "asyncssh"]
