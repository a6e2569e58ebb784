"""The images that a report shows are those that its titles promise."""

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES
from busi.evaluation import shown_images


def predictions(n: int = 60, right: float = 0.7) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    labels = np.resize([0, 1, 2], n)
    favoured = np.where(rng.random(n) < right, labels, (labels + 1) % 3)
    scores = np.exp(rng.normal(size=(n, 3)) / 3 + 2 * np.eye(3)[favoured])
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    table = pd.DataFrame({"path": [f"{i:03d}.png" for i in range(n)], "label": np.take(CLASSES, labels)})
    table["predicted"] = np.take(CLASSES, probabilities.argmax(axis=1))
    return table.assign(**dict(zip(CLASSES, probabilities.T, strict=True)))


def test_each_kind_holds_what_its_title_says_and_no_image_twice():
    table = predictions()
    chosen = shown_images.choose(table)
    places = [place for kind in chosen.values() for place in kind]
    assert len(places) == len(set(places)) == 3 + shown_images.WRONG + shown_images.UNCERTAIN
    sure = table[list(CLASSES)].max(axis=1)
    is_right = table["label"] == table["predicted"]
    assert [table["label"][place] for place in chosen["right"]] == list(CLASSES)
    for place in chosen["right"]:
        assert sure[place] == sure[is_right & (table["label"] == table["label"][place])].max()
    assert list(sure[chosen["wrong"]]) == sorted(sure[~is_right], reverse=True)[: shown_images.WRONG]
    gap = table[list(CLASSES)].apply(lambda row: row.nlargest(2).iloc[0] - row.nlargest(2).iloc[1], axis=1)
    assert (
        list(gap[chosen["uncertain"]])
        == sorted(gap.drop([*chosen["right"], *chosen["wrong"]]))[: shown_images.UNCERTAIN]
    )


def test_the_order_of_the_rows_does_not_matter():
    table = predictions()
    shuffled = table.sample(frac=1, random_state=1)
    for kind, places in shown_images.choose(shuffled).items():
        assert list(shuffled["path"].iloc[places]) == list(table["path"].iloc[shown_images.choose(table)[kind]])


def test_without_mistakes_or_with_few_images_there_is_less_to_show():
    assert shown_images.choose(predictions(right=1.0))["wrong"] == []
    assert {kind: len(places) for kind, places in shown_images.choose(predictions(3, right=0.0)).items()} == {
        "right": 0, "wrong": 3, "uncertain": 0,
    }  # fmt: skip
