"""`make docs`: runs the commands of the pages on the running lab that they name, and records what is different now.

PYTHONPATH=tests python -m lab.record_documents [--on STACK] [PAGE...]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from config import paths
from lab import documents, session
from lab.commands import CHECKOUT
from lab.documents_server import serving


def main(words: list[str]) -> int:
    """Record; the exit code is 0 also where something was different: `git diff` shows it."""
    parser = argparse.ArgumentParser(prog="make docs", description=__doc__)
    parser.add_argument("--on", metavar="STACK", help="a running lab of the shape of dev, with ranges of its own")
    parser.add_argument("pages", nargs="*", type=Path)
    chosen = parser.parse_args(words)
    pages = [page.resolve() for page in chosen.pages] or documents.pages()
    labs = sorted({block.lab for page in pages for block in documents.blocks(page) if block.runs})
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as server:
        home = Path(scratch, "home")
        home.mkdir()
        for lab in labs:
            running = chosen.on or lab
            if lab == documents.NO_LAB:
                running, translation = documents.DEFAULT_LAB, None
            elif not (paths.state() / running / "lab.json").exists():
                print(f"The lab {running} is not running: its pages are not recorded. ./hardway up -s {running}")
                continue
            else:
                translation = documents.Translation(session.settings_of(lab), session.settings_of(running), home=home)
            for page in pages:
                with documents.Session(running, home, server) as shell:
                    outcomes = list(documents.run_page(page, lab, shell, translation, long=True))
                if outcomes:
                    changed = documents.record(page, outcomes)
                    print(f"{page.relative_to(CHECKOUT)}: {len(outcomes)} commands on {running}, {changed} recorded")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
