"""The rows of the plan of reliability (attack classes A, B, C), and which tests show each.

A test shows a row by its name: `test_a5_…`, and `test_c2_c3_…` shows two. `make rows` prints the matrix; tests/unit/test_rows.py
fails where a row has no test.

`POSTROOM_SPEC` names the folder of reliability.md; else it is looked for in `shared/spec` beside the checkout.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
SPEC = Path(os.environ.get("POSTROOM_SPEC") or TESTS.parents[1] / "shared" / "spec") / "reliability.md"

NOTHING_THERE = {
    "C9": "nothing reads or writes CSV before there are audiences",
    "C10": "nothing fills in templates before there are templates",
}
"""Rows about what the product does not have, each with the reason. A row that gets a test leaves this list."""

_ROW = re.compile(r"^\| ([ABC]\d{1,2}) \| ([^|]+?) \|", re.MULTILINE)
_NAME = re.compile(r"test_((?:[abc]\d{1,2}_)+)")


def wanted() -> dict[str, str]:
    """Row → its class, in the order of the plan. Raises OSError where the plan is not there."""
    return {row: " ".join(title.split()) for row, title in _ROW.findall(SPEC.read_text())}


def shown() -> dict[str, list[str]]:
    """Row → the tests that show it, `file::name`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in _functions(path):
            if match := _NAME.match(name):
                for row in match[1].rstrip("_").split("_"):
                    found[row.upper()].append(f"{path.relative_to(TESTS)}::{name}")
    return found


def _functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def main() -> None:
    if not SPEC.exists():
        sys.exit(f"{SPEC} is not there: set POSTROOM_SPEC to the folder of reliability.md.")
    found = shown()
    for row, title in wanted().items():
        tests = found.get(row, [])
        print(f"{row:>4}  {title[:70]:70}  {len(tests) or NOTHING_THERE.get(row, 'NO TEST')}")
        if "-v" in sys.argv[1:]:
            for test in tests:
                print(f"        {test}")


if __name__ == "__main__":
    main()
