"""Everything that `make up` and `make test` need on a bare machine: `python -m toolchain`."""
