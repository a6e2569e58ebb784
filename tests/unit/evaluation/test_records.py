"""Records go to JSON and come back, and an interval is written in one way."""

import json

from busi.evaluation.records import Metric, as_json, format_interval, format_range

METRIC = Metric(0.898, 0.822, 0.957, 88)


def test_records_at_any_depth_become_what_json_holds():
    found = {"a": METRIC, "b": {"c": [METRIC, 1]}, "d": "text", "e": None}
    plain = METRIC._asdict()
    assert json.loads(json.dumps(as_json(found))) == {"a": plain, "b": {"c": [plain, 1]}, "d": "text", "e": None}
    assert Metric.from_json(plain | {"threshold": 3.0}) == METRIC


def test_an_interval_is_written_in_one_way():
    assert format_interval(METRIC) == f"0.898 ({format_range(METRIC)})"
    assert format_range(METRIC, 1, percent=True, separator="-") == "82.2-95.7"
