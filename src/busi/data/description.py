"""The `dataset.json` of a data set that somebody else packed, checked before it is believed."""

import json

from busi.data.arrangement import name_fault
from busi.data.layout import DATASET_FILE

_DESCRIPTION = {"name": str, "synthetic": bool, "source": str, "licence": str}
_DESCRIPTION_OPTIONAL = {"counts": dict, "masks": int, "planted": dict}


def read_description(content: bytes) -> dict:
    """Read the `dataset.json` of an exported set: name, synthetic, source, licence and, for a phantom, planted.

    Counts in it are dropped, because the caller counts again. A set cannot turn from synthetic to real here:
    `synthetic` must be stated, and a set named phantom or with planted defects must state it as true.

    Raises:
        ValueError: not JSON, a key is missing, unknown or of another type, or the set contradicts itself.
    """
    where = f"{DATASET_FILE} of the source"
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8")  # it can be written again
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON in UTF-8: {error}\n  mend it or remove it") from error
    value = value if isinstance(value, dict) else {}
    known = _DESCRIPTION | _DESCRIPTION_OPTIONAL
    faults = [f"{key}: missing" for key in _DESCRIPTION if key not in value]
    for key, entry in value.items():
        if key not in known:
            faults.append(f"{key!r}: unknown key")
        elif not isinstance(entry, known[key]):
            faults.append(f"{key}: received {entry!r:.60}, expected {known[key].__name__}")
        elif isinstance(entry, str) and (reason := name_fault(entry, longest=1000)):
            faults.append(f"{key}: {reason}")
    if not faults and not value["synthetic"] and ("planted" in value or value["name"] == "phantom"):
        faults.append("synthetic: false, but the set is named phantom or lists planted defects; expected true")
    if faults:
        raise ValueError("\n  ".join([f"{where} is not valid", *faults]))
    return {key: entry for key, entry in value.items() if key not in ("counts", "masks")}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")
