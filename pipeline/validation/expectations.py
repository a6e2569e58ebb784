"""The suite of expectations that a data set is held to, over the columns of `busi.data.validation_table`."""

from typing import NamedTuple

from busi.data.layout import CLASSES, DATASET_FILE
from pipeline.params import Validate

# What makes an image useless: gray levels that do not differ, or more than half of its pixels saturated.
BLANK_STD = 1.0
SATURATED_SHARE = 0.5


class Check(NamedTuple):
    """One expectation: its name and sentence, how an offending row is shown, and Great Expectations' own object."""

    name: str
    severity: str
    sentence: str
    shows: str
    expectation: object


def suite(limits: Validate) -> list[Check]:
    """The expectations, over the columns of `validation_table`."""
    import great_expectations.expectations as gxe

    def in_set(column: str, *values: object) -> tuple:
        return gxe.ExpectColumnValuesToBeInSet, {"column": column, "value_set": list(values)}

    def between(column: str, low: float | None, high: float | None) -> tuple:
        return gxe.ExpectColumnValuesToBeBetween, {"column": column, "min_value": low, "max_value": high}

    def equal(one: str, other: str) -> tuple:
        pair = {"column_A": one, "column_B": other, "ignore_row_if": "either_value_is_missing"}
        return gxe.ExpectColumnPairValuesToBeEqual, pair

    side = f"{limits.min_side} to {limits.max_side} pixels"
    rows = [
        ("label_set", "critical", f"The folders are {', '.join(CLASSES)} and no other.", "folder {!r}",
         in_set("label", *CLASSES)),
        ("no_empty_class", "critical", "Each class has images.", "{:g} images", between("images", 1, None)),
        ("counts", "critical", f"There are as many images a class, and masks, as {DATASET_FILE} says.",
         "{:g} found, {:g} expected", equal("found", "expected")),
        ("unique_paths", "critical", "Each path occurs once.", "more than once",
         (gxe.ExpectColumnValuesToBeUnique, {"column": "path"})),
        ("no_nested_folders", "critical", "Class folders hold no folders.", "{}", in_set("nested_folder", "ok")),
        ("no_other_files", "warning", "There are no files but images and masks.", "{}", in_set("other_file", "ok")),
        ("decodable", "critical", "Each image can be read whole.", "{}", in_set("unreadable_image", "ok")),
        ("width", "critical", f"Images are {side} wide.", "{:g} pixels wide",
         between("width", limits.min_side, limits.max_side)),
        ("height", "critical", f"Images are {side} high.", "{:g} pixels high",
         between("height", limits.min_side, limits.max_side)),
        ("mode", "warning", "Pixels are 8-bit gray or RGB; others are converted as they are read.", "mode {}",
         in_set("mode", "L", "RGB")),
        ("name_matches_folder", "critical", "An image that is named for a class lies in that class's folder.",
         "in {}, named {}", equal("label", "name_label")),
        ("not_blank", "critical", f"Gray levels differ (standard deviation of at least {BLANK_STD:g}).",
         "standard deviation {}", between("std", BLANK_STD, None)),
        ("not_saturated", "warning", f"At most {SATURATED_SHARE:.0%} of an image is saturated.",
         "saturated share {}", between("saturated", None, SATURATED_SHARE)),
        ("masks_decodable", "critical", "Each mask can be read whole.", "{}", in_set("unreadable_mask", "ok")),
        ("masks_have_image", "critical", "Each mask belongs to one image.", "{}", in_set("mask_without_image", "ok")),
        ("mask_size", "critical", "An image that has masks has one of its own size.", "{}", in_set("mask_size", "ok")),
        ("further_mask_size", "warning",
         "Its other masks have that size too; lesion_fraction leaves out those that differ.", "{}",
         in_set("further_mask_size", "ok")),
        ("lesions_have_mask", "warning", "Where the set has masks, each lesion image has one.", "mask {}",
         in_set("lesion_mask", "present", "empty")),
        ("lesion_masks_marked", "critical", "The masks of a lesion image mark a lesion.", "mask {}",
         in_set("lesion_mask", "present", "missing")),
        ("normal_masks_empty", "critical", "The masks of a normal image mark nothing.", "lesion {}",
         in_set("normal_mask", "empty")),
        ("copies_flagged", "critical", "Identical files in two classes are marked as a label conflict.",
         "not marked", in_set("copy_flagged", "yes")),
        ("one_label_a_group", "warning", "Near-duplicate images have one label; conflicts go to quarantine.",
         "its group mixes labels", in_set("label_conflict", False)),
    ]  # fmt: skip
    return [
        Check(name, severity, sentence, shows, kind(
            **arguments, severity=severity, description=f"{name} ({severity}): {sentence}", meta={"name": name}
        ))
        for name, severity, sentence, shows, (kind, arguments) in rows
    ]  # fmt: skip
