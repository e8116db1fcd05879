"""What the file `hardway` runs, from any directory; in the checkout also `python -m cli`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -P` has no directory of its own here: the current one is the user's.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    try:
        from cli.main import main

        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        # While Python still loads the command line, or ends it.
        print("error: interrupted.", file=sys.stderr)
        status = 130
    sys.exit(status)
