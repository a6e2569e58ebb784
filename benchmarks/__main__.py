"""Every row of docs/performance.md, then the table: `python -m benchmarks`, or `make bench`.

The table goes between the two marks in docs/performance.md; a quick run only prints it. What the scripts made under
`.cache/benchmarks/` goes at the end of a whole run; a script by itself leaves it for the next.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import typer

from benchmarks import harness

SCRIPTS = {
    "training": True,
    "prediction": True,
    "data": True,
    "flow": False,
    "scaling": False,
}  # whether it takes images
PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- table -->\n", "<!-- end -->"


def main(images: harness.Images = None, quick: harness.Quick = False) -> None:
    for name, takes_images in SCRIPTS.items():
        print(f"{name}", flush=True)
        options = ["--quick"] * quick + (["--images", str(images)] if images and takes_images else [])
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=True)
    table = harness.table(quick)
    print(table)
    if not quick:
        shutil.rmtree(harness.PLACE)  # gigabytes, and quickly made again
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
