"""The study: what it plans, how it sums up, that its page says what its results say, and one tiny run of all of it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "study"))

import jobs  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
import tables  # noqa: E402
from results import Results, difference, mean, over_seeds  # noqa: E402

from verl.trainer.fsdp_dft_trainer.command_line import compose_config  # noqa: E402

FULL = plan.SCALES["full"]
STUDY, PAGE = ROOT / "benchmarks" / "results" / "study.json", ROOT / "docs" / "study.md"


def study(*args: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["bash", str(ROOT / "sh" / "study.sh"), *args], env=environment, capture_output=True, text=True, cwd=ROOT
    )


def run_of(condition: str, arm: str, seed: int, part: str = "objectives", **numbers: float) -> dict:
    return {
        "part": part,
        "condition": condition,
        "arm": arm,
        "base_steps": 8,
        "seed": seed,
        "training": {"nll": 0.5, "mean_p": 0.7},
        "evaluation": {"greedy": 0.0, "avg": 0.0, "pass": 0.0, "maj": 0.0, **numbers},
    }


def made_results(*runs: dict) -> Results:
    scale = {"base_steps": [0, 8], "seeds": 2, "samples": 16}
    return Results({"scale": scale, "runs": list(runs), "forecasts": [], "finished_runs": len(runs), "planned_runs": 9})


def test_every_run_has_a_folder_of_its_own_and_every_cell_all_seeds():
    runs = [*plan.base_runs(FULL), *plan.fine_tunings(FULL)]
    assert len({run.name for run in runs}) == len(runs)
    cells = {(run.part, run.condition, run.arm, run.base_steps) for run in runs}
    assert len(runs) == FULL.seeds * len(cells)
    for condition in plan.CONDITIONS:
        for arm in ("sft", "dft"):
            assert ("objectives", condition, arm, FULL.full_base) in cells


def test_all_bases_come_before_what_starts_from_them(tmp_path):
    made = {run.name for run in plan.base_runs(FULL)}
    for run in plan.fine_tunings(FULL):
        start = run.start(tmp_path).relative_to(tmp_path)
        assert start.parts[0] in ("untrained", "unseen_end") or "/".join(start.parts[:2]) in made


def test_the_trainer_takes_every_flag(tmp_path):
    distinct = {(run.part, run.flags): run for run in [*plan.base_runs(FULL), *plan.fine_tunings(FULL)]}
    for run in distinct.values():
        config = compose_config(plan.trainer_flags(run, tmp_path, FULL))
        assert config.objective.name in ("sft", "dft", "threshold", "eaft", "asft")
        expected = {"base": 6e-3, "precision": float(run.arm.split()[-1]) if " " in run.arm else 0}.get(run.part, 1e-3)
        assert config.optim.lr == expected
        assert config.engine.model_dtype == ("bf16" if run.arm.startswith("bf16") else "fp32")


def test_a_mean_has_the_standard_error_over_seeds():
    found = mean([1.0, 2.0, 6.0])
    assert (found.value, found.seeds) == (3.0, 3)
    assert found.error == pytest.approx(math.sqrt(((-2) ** 2 + (-1) ** 2 + 3**2) / 2 / 3))
    assert math.isnan(mean([1.0]).error)
    assert mean([0.5]).text(1, 100) == "50.0"
    with pytest.raises(ValueError, match="at least one finished run"):
        mean([])


def test_differences_are_taken_seed_by_seed():
    runs = [run_of("clean", "sft", seed, greedy=0.2 + 0.3 * seed) for seed in range(3)]
    runs += [run_of("clean", "dft", seed, greedy=0.3 + 0.3 * seed) for seed in (1, 2)]
    results = made_results(*runs)
    sft, dft = (results.cell("objectives", "clean", arm) for arm in ("sft", "dft"))
    gain = difference(dft, sft, "greedy")  # seed 0 has no partner
    assert gain.value == pytest.approx(0.1) and gain.error == pytest.approx(0.0, abs=1e-12) and gain.seeds == 2
    assert over_seeds(sft, "greedy").error > 0.1


def test_tables_hold_what_is_finished_and_nothing_else():
    results = made_results(run_of("wrong30", "sft", 0, avg=0.25), run_of("wrong30", "sft", 1, avg=0.35))
    lines = tables.objectives(results).splitlines()
    assert lines[2:] == [
        "| 30 % wrong | SFT | 0.0 ± 0.0 | 30.0 ± 5.0 | 0.0 ± 0.0 | 0.0 ± 0.0 | 0.500 ± 0.000 | 0.700 ± 0.000 |"
    ]
    assert len(tables.gains(results).splitlines()) == 2  # no partner, no difference


def test_only_marked_tables_of_a_page_are_replaced():
    page = "before\n<!-- table gains -->\nold\n<!-- end -->\nafter\n"
    new = report.with_tables(page, made_results())
    assert new.startswith("before\n<!-- table gains -->\n| training data |") and new.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in new and report.with_tables(new, made_results()) == new
    with pytest.raises(ValueError, match="expected a table out of objectives"):
        report.with_tables(page.replace("gains", "gain"), made_results())


def test_the_page_has_the_tables_of_the_stored_results_and_its_plots():
    page = PAGE.read_text(encoding="utf-8")
    assert report.with_tables(page, Results.read(STUDY)) == page
    assert {found[2] for found in report.MARKED.finditer(page)} == set(tables.TABLES)
    for name in report.PICTURES:
        assert f"(study_{name}.png)" in page and (PAGE.parent / f"study_{name}.png").is_file()


def test_finished_work_is_read_back_and_other_settings_are_refused(tmp_path):
    done = []
    for _ in range(2):
        found = jobs.once(tmp_path / "a" / "x.json", ["lr=1"], lambda: done.append(1) or {"value": 3})
        assert found["value"] == 3 and found["cpu_s"] >= 0
    assert len(done) == 1
    with pytest.raises(ValueError, match="made with other settings.*Choose another OUT"):
        jobs.once(tmp_path / "a" / "x.json", ["lr=2"], dict)


def test_what_fails_leaves_no_result(tmp_path):
    with pytest.raises(ZeroDivisionError):
        jobs.once(tmp_path / "x.json", [], lambda: 1 // 0)
    assert not (tmp_path / "x.json").exists()


def test_dry_run_prints_a_training_and_an_evaluation_of_every_model(tmp_path):
    done = study(DRY_RUN="1", OUT=str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    models = len(plan.base_runs(FULL)) + len(plan.fine_tunings(FULL))
    assert sum("verl.math_eval" in line for line in lines) == models
    assert sum("verl.trainer.fsdp_dft_trainer" in line for line in lines) == models - FULL.seeds  # the untrained ones
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_tiny_study_from_end_to_end_goes_on_where_it_was(tmp_path):
    out = tmp_path / "out"
    first = study(STUDY_SCALE="smoke", OUT=str(out))
    assert first.returncode == 0, first.stdout + first.stderr
    found = json.loads((out / "study.json").read_text())
    assert found["finished_runs"] == found["planned_runs"] == 14
    assert all(0 <= run["evaluation"]["avg"] <= run["evaluation"]["pass"] <= 1 for run in found["runs"])
    moved = {run["arm"]: run["training"]["changed"] for run in found["runs"] if run["part"] == "precision"}
    assert moved["bf16 5e-6"] < moved["fp32 5e-6"]
    assert (out / "tables.md").is_file() and (out / "study_gains.png").is_file()
    assert str(out) not in (out / "study.json").read_text()  # can be shown to others

    (lost,) = out.glob("stop/clean-dft-from-2-seed0/evaluation.json")
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("training.json")}
    assert study(STUDY_SCALE="smoke", OUT=str(out)).returncode == 0
    assert lost.is_file() and {path: path.stat().st_mtime_ns for path in out.rglob("training.json")} == times
