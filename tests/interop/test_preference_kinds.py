"""Objectives ipo, cpo, simpo and orpo, and dpo with sums of losses and with sorted values, laid over PyTorch's curves on every grid; what eval says of them."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import preference_cases as cases
from test_preferences import check_curves, check_evaluated, is_single, prepare


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_curves(checks, folder, [name for name in cases.CASES if not is_single(name) and not name.startswith("kto")])
        for name in ("dpo-sum-full", "simpo", "orpo-full"):
            check_evaluated(checks, folder, name)
    checks.end()


if __name__ == "__main__":
    main()
