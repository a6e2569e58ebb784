"""How good the near-duplicate detector is: `python -m benchmarks.duplicates FOLDER`, a folder in BUSI's layout.

Prints the groups that `busi.data.duplicates` finds in the folder. Then it adds altered copies of a sample of its images
and prints, for each way to alter an image, how many copies land in their source's group, and how many pairs of a copy
with an unrelated image are called near-duplicates. Intervals are Wilson's at 95 %.
"""

import io
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest
from tqdm import tqdm

from busi.data.duplicates import find_pairs, fingerprint, join
from busi.data.images import read_image, to_gray
from busi.data.layout import CLASSES, parse_name


def main(
    folder: Annotated[Path, typer.Argument(help="folder with benign/, malignant/ and normal/")],
    sample: Annotated[int, typer.Option(help="images to copy, for each alteration")] = 200,
    seed: Annotated[int, typer.Option(help="seed of the sample and of the alterations")] = 0,
    picture: Annotated[Path | None, typer.Option(help="PNG file to draw the groups with two labels to")] = None,
) -> None:
    """Report the near-duplicate groups of FOLDER and the detector's recall and false positives on altered copies."""
    paths = [path for label in CLASSES for path in sorted((folder / label).glob("*")) if _is_image(path.name)]
    if not paths:
        raise typer.BadParameter(f"no images below {folder}; expected benign/, malignant/ and normal/ with images")
    started = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        prints = np.stack(list(pool.map(lambda path: fingerprint(to_gray(read_image(path))), paths)))
    decoded = time.perf_counter()
    pairs = find_pairs(prints)
    groups = join(pairs, len(paths))
    done = time.perf_counter()

    conflicts = report_groups(paths, pairs, groups)
    if picture and conflicts:
        draw_conflicts(conflicts).save(picture)
    print(f"\n{done - started:.1f} s: fingerprints {decoded - started:.1f}, pairs and groups {done - decoded:.1f}")

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(paths), min(sample, len(paths)), replace=False))
    scenes = _scenes(pairs, len(paths))
    rows = []
    for name, alter in tqdm(ALTERATIONS.items(), desc="altered copies", unit="alteration", delay=5):
        copies = np.stack([fingerprint(to_gray(alter(_load(paths[source]), rng))) for source in chosen])
        rows.append({"copy": name, **measure(prints, copies, chosen, scenes)})
    print(f"\naltered copies of {len(chosen)} images, added to the {len(paths)}, seed {seed}\n")
    print(pd.DataFrame(rows).to_string(index=False))


def report_groups(paths: list[Path], pairs: pd.DataFrame, groups: np.ndarray) -> list[list[Path]]:
    """Print the groups; returns those with two labels."""
    sizes = Counter(Counter(groups.tolist()).values())
    grouped = sum(size * count for size, count in sizes.items() if size > 1)
    print(f"{len(paths)} images, {grouped} in {sum(n for size, n in sizes.items() if size > 1)} groups of two or more")
    print(pd.Series(dict(sorted(sizes.items())), name="groups").rename_axis("size").to_string())
    twins = pairs[pairs["twins"]]
    cut = twins[groups[twins["first"]] != groups[twins["second"]]]
    print(f"{len(twins)} near-duplicate pairs, {int(twins['mirrored'].sum())} mirrored, {len(cut)} between two groups")
    labels = np.array([path.parent.name for path in paths])
    conflicts = [[paths[member] for member in members]
                 for members in map(np.flatnonzero, groups == np.unique(groups)[:, None])
                 if len(set(labels[members])) > 1]  # fmt: skip
    print(f"\n{len(conflicts)} groups with two labels")
    for members in conflicts:
        print("  " + " | ".join(f"{path.parent.name}/{path.name}" for path in members))
    return conflicts


def draw_conflicts(conflicts: list[list[Path]], side: int = 200) -> Image.Image:
    """The images of each group in a row, with their names."""
    sheet = Image.new("L", (side * max(map(len, conflicts)), (side + 20) * len(conflicts)), 255)
    draw = ImageDraw.Draw(sheet)
    for row, members in enumerate(conflicts):
        for column, path in enumerate(members):
            at = column * side, row * (side + 20)
            sheet.paste(_load(path).resize((side - 4, side - 4)), at)
            draw.text((at[0], at[1] + side), f"{path.parent.name}/{path.name}"[:32], fill=0)
    return sheet


def measure(prints: np.ndarray, copies: np.ndarray, sources: np.ndarray, scenes: np.ndarray) -> dict[str, object]:
    """Add `copies` (of the images `sources`) to `prints` and count those that are grouped rightly and wrongly.

    Args:
        scenes: one number an image; images of one number are related through a chain of near-duplicates, and
            their pairs count neither for nor against.
    """
    count = len(prints)
    pairs = find_pairs(np.concatenate([prints, copies]))
    groups = join(pairs, count + len(copies))
    found = int((groups[count:] == groups[sources]).sum())
    scene = np.concatenate([scenes, scenes[sources]])
    twins = pairs[pairs["twins"]]
    new = twins["second"] >= count
    false = int((new & (scene[twins["first"]] != scene[twins["second"]])).sum())
    unrelated = int((scene[sources][:, None] != scenes).sum() + np.triu(scene[count:, None] != scene[count:]).sum())
    return {
        "found": f"{found}/{len(copies)}",
        "recall": _with_interval(found, len(copies), 1, 1),
        "false pairs": f"{false}/{unrelated}",
        "per million": _with_interval(false, unrelated, 1e6, 0),
    }


def rescale(factor: float):
    return lambda image, rng: ImageOps.scale(image, factor)


def crop(share: float):
    """Cut `share` off the width and off the height, split at random between the two ends."""

    def cut(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        start = rng.random(2) * share
        (left, top), (right, bottom) = start, start + 1 - share
        width, height = image.size
        return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))

    return cut


def gamma(exponent: float):
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return lambda image, rng: image.point(table)


def overlay(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two pairs of calipers joined by dotted lines, and two lines of text, as scanners burn them in."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    side = min(image.size)
    for _ in range(2):
        start, end = rng.uniform(0.15, 0.85, (2, 2)) * image.size
        for x, y in (start, end):
            draw.line((x - side / 50, y, x + side / 50, y), fill=255, width=max(1, side // 200))
            draw.line((x, y - side / 50, x, y + side / 50), fill=255, width=max(1, side // 200))
        for step in np.linspace(0, 1, 40):
            draw.point(tuple(start + step * (end - start)), fill=255)
    font = ImageFont.load_default(size=side / 18)
    draw.text((0.04 * side, 0.03 * side), "RT BREAST 10:00", fill=255, font=font)
    draw.text((0.04 * side, 0.90 * image.size[1]), "1  L 1.62 cm\n", fill=255, font=font)
    return image


def jpeg(quality: int):
    def compress(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return read_image(buffer.getvalue())

    return compress


def speckle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Multiplicative noise of 25 %, pixel by pixel."""
    levels = np.asarray(image) * (1 + 0.25 * rng.standard_normal(image.size[::-1]))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def mirrored_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return crop(0.10)(mirror(image, rng), rng)


ALTERATIONS = {
    "rescaled to 40 %": rescale(0.4),
    "rescaled to 200 %": rescale(2.0),
    "cropped by 5 %": crop(0.05),
    "cropped by 10 %": crop(0.10),
    "cropped by 15 %": crop(0.15),
    "cropped by 30 %": crop(0.30),
    "brighter by 40 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.4),
    "darker by 40 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(0.6),
    "contrast, gamma 0.6": gamma(0.6),
    "contrast, gamma 1.6": gamma(1.6),
    "mirrored": mirror,
    "mirrored, cropped by 10 %": mirrored_crop,
    "calipers and text": overlay,
    "JPEG, quality 20": jpeg(20),
    "new speckle": speckle,
}


def _is_image(name: str) -> bool:
    parsed = parse_name(name)
    return parsed is not None and parsed.mask is None


def _load(path: Path) -> Image.Image:
    return Image.fromarray(to_gray(read_image(path)))


def _scenes(pairs: pd.DataFrame, count: int) -> np.ndarray:
    twins = pairs[pairs["twins"]]
    graph = coo_array((np.ones(len(twins)), (twins["first"], twins["second"])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _with_interval(hits: int, trials: int, unit: float, digits: int) -> str:
    """`hits / trials` in `unit`s (1 shows per cent) with Wilson's 95 % interval."""
    ci = binomtest(hits, trials).proportion_ci(method="wilson")
    scale = 100 if unit == 1 else unit
    value, low, high = (scale * number for number in (hits / trials, ci.low, ci.high))
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
