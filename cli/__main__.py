"""What the file `hardway` runs, from any directory; in the checkout also `python -m cli`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Container images set this variable. A command starts Python five times, and each time the modules of this
    # checkout would be compiled again, which takes a second of a processor.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # `python -P` has no directory of its own here: the current one is the user's.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from toolchain.program_host import ProgramHost

    # What runs the program loads it while this process loads the commands. The words are not parsed yet: where one of
    # them only looks like a command, it is ended again.
    program = ProgramHost() if {"up", "preview"} & set(sys.argv[1:]) else None
    try:
        from cli.main import main

        status = main(sys.argv[1:], program)
    except KeyboardInterrupt:
        # While Python still loads the command line, or ends it.
        print("error: interrupted.", file=sys.stderr)
        status = 130
    finally:
        if program:
            program.end()
    sys.exit(status)
