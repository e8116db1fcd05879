"""Everything that `./hardway up` and `make test` need on a bare machine: the commands of `./hardway` call it."""

from config import paths as paths  # the same directories for the program and for set-up
