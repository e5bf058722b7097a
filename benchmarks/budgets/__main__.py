"""Writes budgets.csv, or with --check says what in it is no longer true."""

import argparse
import sys

from . import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    measured = table.measure()
    changed = table.differences(table.read() if table.FILE.exists() else [], measured)
    print("\n".join(changed) or "as before")
    if parser.parse_args().check:
        return int(bool(changed))
    table.FILE.write_text(table.text(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
