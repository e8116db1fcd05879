"""Everything that `make up` and `make test` need on a bare machine: the commands of `./hardway` call it."""
