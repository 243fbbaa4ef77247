"""Exports: what inspect-ai's viewer and the Hub read, checked against their own readers where they are installed."""

import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from made_runs import store_evaluation

from verl.math_eval.export import export

ANSWERS = [["1", "2", "1"], ["1", "1", "1"]]


def test_inspect_logs_hold_every_sample_and_score(tmp_path):
    run = store_evaluation(tmp_path / "a", "org/m", {"sums": ANSWERS, "gsm8k": [["1", "</script>\ud800", "2"]]})
    folder = export([run], tmp_path, "inspect")
    logs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert len(logs) == 2
    log = next(log for log in logs if log["eval"]["task"] == "sums_T1")
    assert [s["scores"]["math"]["value"] for s in log["samples"]] == ["C", "I", "C", "C", "C", "C"]
    assert [(s["id"], s["epoch"]) for s in log["samples"]] == [(f"sums/{p}", e) for p in (0, 1) for e in (1, 2, 3)]
    (score,) = log["results"]["scores"]
    assert score["metrics"]["avg@3"]["value"] == pytest.approx(5 / 6)
    assert log["eval"]["config"]["epochs"] == 3 and log["eval"]["model_generate_config"]["temperature"] == 1.0
    inspect_log = pytest.importorskip("inspect_ai.log")
    for path in folder.glob("*.json"):
        assert inspect_log.read_eval_log(str(path)).status == "success"


def test_the_hubs_entries_are_read_by_its_own_library(tmp_path):
    runs = [
        store_evaluation(tmp_path / "a", "org/m", {"gsm8k": ANSWERS, "mine": ANSWERS}),
        store_evaluation(tmp_path / "a" / "greedy", "org/m", {"gsm8k": [["1"], ["2"]]}, temperature=0.0),
    ]
    (path,) = export(runs, tmp_path, "hf").glob("*.yaml")
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert {(e.dataset_id, e.task_id) for e in entries} == {("openai/gsm8k", "main")}
    assert [e.value for e in entries] == [83.33, 100.0, 100.0, 50.0]
    assert entries[0].notes.startswith("avg@3 in % ± 16.7") and entries[3].notes.startswith("greedy in %")
    with pytest.raises(ValueError, match="expected a benchmark with a place on the Hub"):
        export([store_evaluation(tmp_path / "b", "m", {"mine": ANSWERS})], tmp_path, "hf")
    with pytest.raises(ValueError, match="expected --export out of inspect, hf, found 'csv'"):
        export(runs, tmp_path, "csv")
