"""Print how far the catalog's rules are off, and its two-lane gains beside measured ones.

`python -m bench.catalog`, or `make bench-catalog`.
"""

from __future__ import annotations

from bench.catalog.tables import rule_errors, two_lanes, two_lanes_of_catalog


def main() -> None:
    """Print all tables."""
    for title, lines in (
        ("Each rule's answer for what is known, without looking at it", rule_errors()),
        ("Two lanes against one, batches of 16 on a V100 under TensorRT", two_lanes()),
        ("Two lanes against one, as the catalog has them on a p3.2xlarge", two_lanes_of_catalog()),
    ):
        print(f"{title}\n")
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
