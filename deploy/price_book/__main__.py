"""`make prices`: writes the generated price files and names what a person has to look at."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from meterstream.deploy.price_book import second
from meterstream.deploy.price_book.build import build
from meterstream.deploy.price_book.write import text_of
from meterstream.schema import price_file

FOLDER = Path(price_file.__file__).parent / "prices"


def generated() -> tuple[dict[str, str], list[str]]:
    """(name -> text of every generated file, what was left out and why). Blocks for reading the kept files."""
    kept = price_file.load(*(path for path in sorted(FOLDER.glob("*.yaml")) if not path.name.endswith(".listed.yaml")))
    built = build(kept)
    release = version("genai-prices")
    texts = {f"{each.provider}.listed.yaml": text_of(each, release) for each in built}
    return texts, [f"{each.provider} {reason}" for each in built for reason in each.left_out]


def main() -> int:
    """Exit code 1: some differences nobody has looked at."""
    if sys.argv[1:2] == ["cut"]:
        second.CUT.write_bytes(second.cut(Path(sys.argv[2]).read_text("utf-8")))
        return 0
    texts, left_out = generated()
    for name, text in texts.items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"{path.name}: changed")
    for reason in left_out:
        print(f"left out: {reason}")
    lines = price_file.load(*sorted(FOLDER.glob("*.yaml")))
    new, gone = second.judged(second.differences(lines, second.entries()), second.accepted())
    for difference in new:
        print(f"look at this, then mend it or add it to {second.ACCEPTED.name}: {difference}")
    for difference in gone:
        print(f"no longer so, remove it from {second.ACCEPTED.name}: {difference}")
    missing, priced = second.judged(second.unpriced(lines, second.entries()), second.accepted_unpriced())
    for model in missing:
        print(f"both lists price it: price it, or add it to {second.UNPRICED.name}: {model}")
    for model in priced:
        print(f"it has a price now, remove it from {second.UNPRICED.name}: {model}")
    return 1 if new or gone or missing or priced else 0


if __name__ == "__main__":
    sys.exit(main())
