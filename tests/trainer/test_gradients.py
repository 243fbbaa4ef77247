"""One global batch, one gradient: whatever the ranks, the micro-batches, the packing, the head and the model's form.

The oracle is written out here: one process, one row at a time, one token at a time, float64. Two launches serve all
cases: within one, each engine is built once and asked for the gradient of many cases.
"""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_model import moved, save_tiny_model, token_weight, tokens_of

ROWS = BATCH = 16
SEED = 3
LORA_RANK, LORA_ALPHA, LORA_MODULES = 4, 8, ("q_proj", "v_proj", "down_proj")
USER_FILE = Path(__file__).with_name("user_objective.py")

OBJECTIVES = {
    "sft": {"name": "sft"},
    "dft": {"name": "dft"},
    "dft-options": {"name": "dft", "floor": 0.3, "mix": 0.8, "power": 0.5},
    "dft-eos": {"name": "dft", "full_weight": True},
    "alpha": {"name": "alpha_family", "alpha": 2.0},
    "threshold": {"name": "threshold", "q": 0.01},
    "eaft": {"name": "eaft", "alpha": 1.5},
    "idft": {"name": "idft", "b": 2.0, "low": 0.3},
    "deft": {"name": "deft"},
    "trim": {"name": "trim", "center": -1.0, "width": 2.0},
    "asft": {"name": "asft", "kl_weight": 0.7},
    "base-target": {"name": "base_target"},
    "iw": {"name": "iw_sft", "temperature": 2.0, "max_weight": 1.5},
    "iw-token": {"name": "iw_sft_token", "low": 0.7, "high": 1.2},
    "user": {"name": "cubic", "path": str(USER_FILE), "strength": 0.5},
}
MICRO_BATCHES = (1, 2, 8, "budget")
BLANKS = ("none", "micro", "rank")


def engines(ranks: int) -> dict[str, dict]:
    """Every pair of settings of the engine at least once; the larger half of the full product is left out."""
    layouts = ("packed", "padded") if ranks == 1 else ("packed", "padded", "ulysses")
    product = itertools.product(layouts, ("full", "lora"), ("tied", "untied"), ("checkpointing", "keeping"))
    chosen = {}
    for layout, weights, head, memory in product:
        # Of the last three, which are independent of the layout, those with an even number of second choices.
        if (weights == "lora") ^ (head == "untied") ^ (memory == "keeping") ^ (layout == "padded"):
            continue
        chosen[f"{ranks}-{layout}-{weights}-{head}-{memory}"] = {
            "layout": layout, "weights": weights, "head": head, "memory": memory, "ranks": ranks
        }  # fmt: skip
    return chosen


def cases(number: int) -> list[dict]:
    """Every objective, with the heads in turns; so do micro-batches and blanks, and over the engines all pairs occur.

    DFT meets every way to cut the batch up.
    """
    mixed = [
        (
            name,
            (number + i) % 2 == 0,
            MICRO_BATCHES[(number // 2 + i) % 4],
            BLANKS[(number + i // 4) % 3],
            (number // 2 + i // 2) % 2 == 0,
        )
        for i, name in enumerate(OBJECTIVES)
    ]
    whole = list(itertools.product(("dft",), (True,), MICRO_BATCHES, BLANKS, (False,)))
    return [
        {"objective": name, "fused": fused, "micro": micro, "blank": blank, "weighted": weighted}
        for name, fused, micro, blank, weighted in dict.fromkeys(mixed + whole)
    ]


ENGINES = {**engines(1), **engines(2)}
CASES = {name: cases(number) for number, name in enumerate(ENGINES)}


def case_name(case: dict) -> str:
    head, loss = "fused" if case["fused"] else "plain", "weighted" if case["weighted"] else "even"
    return f"{case['objective']}-{head}-{case['micro']}-{case['blank']}-{loss}"


def batching(micro: int | str, engine: dict) -> dict:
    replicas = 1 if engine["layout"] == "ulysses" else engine["ranks"]
    if micro == "budget":
        return {"use_dynamic_bsz": True, "max_token_len_per_gpu": 200, "micro_batch_size_per_gpu": None}
    return {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": BATCH // replicas // micro}


def flags(engine: dict, models: dict[str, Path], data: Path) -> list[str]:
    chosen = [
        f"data.train_files={data}",
        f"model.partial_pretrain={models[engine['head']]}",
        "objective.name=asft",  # for the initial model beside the trained one
        f"data.train_batch_size={BATCH}",
        "data.max_token_len_per_gpu=200",
        "data.max_length=200",
        f"trainer.seed={SEED}",
        "trainer.total_training_steps=1",
        f"model.enable_gradient_checkpointing={engine['memory'] == 'checkpointing'}",
    ]
    if engine["layout"] == "padded":
        chosen.append("use_remove_padding=false")
    if engine["layout"] == "ulysses":
        chosen.append("ulysses_sequence_parallel_size=2")
    if engine["weights"] == "lora":
        chosen += [f"model.lora_rank={LORA_RANK}", f"model.lora_alpha={LORA_ALPHA}"]
        chosen.append(f"model.target_modules=[{','.join(LORA_MODULES)}]")
    return chosen


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tied": save_tiny_model(folder / "tied", tie_word_embeddings=True),
        # One pair of key-value heads: fewer than the sequence-parallel ranks.
        "untied": save_tiny_model(folder / "untied", tie_word_embeddings=False, num_key_value_heads=1),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Short rows of very different lengths."""
    rows = [{"question": f"{i} + {i}" + "?" * (i % 5), "answer": f"{2 * i}" * (1 + i * i % 11)} for i in range(ROWS)]
    file = tmp_path_factory.mktemp("rows") / "train.parquet"
    pd.DataFrame(rows).to_parquet(file)
    return file


@pytest.fixture(scope="module")
def computed(tmp_path_factory, models, data) -> Path:
    """The gradients of all cases: two launches, one per number of ranks."""
    out = tmp_path_factory.mktemp("gradients")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for ranks in (1, 2):
        plan = {
            name: {
                "flags": flags(engine, models, data),
                "cases": [
                    {
                        "name": case_name(case),
                        "objective": OBJECTIVES[case["objective"]],
                        "fused": case["fused"],
                        "batching": batching(case["micro"], engine),
                        "blank": case["blank"],
                        "weighted": case["weighted"],
                    }
                    for case in CASES[name]
                ],
            }
            for name, engine in ENGINES.items()
            if engine["ranks"] == ranks
        }
        (out / "plan.json").write_text(json.dumps(plan))
        worker = Path(__file__).with_name("gradient_worker.py")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        done = subprocess.run(
            [*command, str(worker), str(out / "plan.json"), str(out)], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return out


# ------------------------------------------------------------------------------------------------ the oracle


def token_loss(name: str, row, of_reference, target: int, log_ratio: float, ends: bool):
    """The loss of one token from its row of logits, with every weight a number and not a tensor."""
    log_probs = row - torch.logsumexp(row, 0)
    lp, probs = log_probs[target], [math.exp(x) for x in log_probs.tolist()]
    p = probs[target]
    if name == "sft" or (name == "dft-eos" and ends):
        return -lp
    if name in ("dft", "dft-eos"):
        return -p * lp
    if name == "dft-options":
        return -(0.8 * max(p, 0.3) ** 0.5 + 0.2) * lp
    if name == "alpha":
        return (1 - lp.exp() ** 2) / 2
    if name == "threshold":
        return -lp if p >= 0.01 else 0 * lp
    if name == "eaft":
        top = sorted(probs, reverse=True)[:20]
        top = [x / sum(top) for x in top]
        return -((-sum(x * math.log(x) for x in top) / 3) ** 1.5) * lp
    if name == "idft":
        entropy = -sum(x * math.log(x) for x in probs)
        return -(p ** min(max(math.exp(-(math.log(p) + entropy) / 2.0), 0.3), 2.0)) * lp
    if name == "deft":
        a = sum(x * x for x in probs)
        return (1 - lp.exp() ** a) / (a + 1e-6)
    if name == "trim":
        z = row.tolist()
        gap = z[target] - max(x for v, x in enumerate(z) if v != target)
        return -math.exp(-((gap + 1.0) ** 2) / (2 * 2.0**2)) * lp
    log_reference = of_reference - torch.logsumexp(of_reference, 0)
    if name == "asft":
        return -p * lp + 0.7 * (log_reference.exp() * (log_reference - log_probs)).sum()
    if name == "base-target":
        return -p * lp - (1 - p) * (log_reference.exp() * (log_probs - log_reference)).sum()
    if name == "iw":
        return -min(math.exp(2.0 * log_ratio), 1.5) * lp
    if name == "iw-token":
        return -min(max(p / math.exp(log_reference[target].item()), 0.7), 1.2) * lp
    assert name == "user"
    return -(p**3 + 0.5) * lp


class Oracle:
    """Gradients and metrics of a batch in float64, with the trained parameters as leaves."""

    def __init__(self, folder: Path, lora: bool, data: Path) -> None:
        self.known: dict[tuple[int, str, bool], tuple[list[torch.Tensor], np.ndarray]] = {}
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.rows = tokens_of(data, tokenizer)
        self.end = tokenizer.eos_token_id
        self.full_weight = {self.end, *tokenizer.all_special_ids}
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
        self.initial = {name: p.detach() for name, p in self.model.named_parameters()}
        if lora:
            self.leaves = {
                f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.default.weight": torch.empty(shape)
                for name, p in self.initial.items()
                if name.split(".")[-2] in LORA_MODULES and name.endswith(".weight")
                for side, shape in (("A", (LORA_RANK, p.shape[1])), ("B", (p.shape[0], LORA_RANK)))
            }
        else:
            self.leaves = self.initial
        self.leaves = {name: moved(name, p.float()).double().requires_grad_() for name, p in self.leaves.items()}

    def parameters(self) -> dict[str, torch.Tensor]:
        """What the model multiplies with: the leaves, or W + (alpha / r) B A."""
        if not any(".lora_" in name for name in self.leaves):
            return self.leaves
        merged = dict(self.initial)
        for name, up in self.leaves.items():
            if ".lora_B." in name:
                plain = name.removeprefix("base_model.model.").replace(".lora_B.default", "")
                merged[plain] = (
                    merged[plain] + LORA_ALPHA / LORA_RANK * up @ self.leaves[name.replace("lora_B", "lora_A")]
                )
        return merged

    def row(self, index: int, objective: str, weighted: bool) -> tuple[list[torch.Tensor], np.ndarray]:
        """Of one row: the gradient of its summed loss, and (loss, nll, 1 - p, hits, stop p, targets) summed; only the
        loss knows of weights."""
        ids, prompt = self.rows[index]
        inputs = {"input_ids": torch.tensor([ids])}
        logits = functional_call(self.model, self.parameters(), kwargs=inputs).logits[0]
        with torch.no_grad():
            reference = functional_call(self.model, self.initial, kwargs=inputs).logits[0]
        places = range(prompt, len(ids))
        log_ps = [logits[i - 1].log_softmax(0)[ids[i]].item() for i in places]
        ratios = [lp - reference[i - 1].log_softmax(0)[ids[i]].item() for lp, i in zip(log_ps, places, strict=True)]
        mean_ratio = sum(ratios) / len(ratios)
        losses = [
            token_loss(objective, logits[i - 1], reference[i - 1], ids[i], mean_ratio, ids[i] in self.full_weight)
            * (token_weight(index, i) if weighted else 1)
            for i in places
        ]
        loss = torch.stack(losses).sum()
        hits = sum(int(logits[i - 1].argmax()) == ids[i] for i in places)
        stop_p = sum(math.exp(lp) for lp, i in zip(log_ps, places, strict=True) if ids[i] == self.end)
        sums = [loss.item(), -sum(log_ps), sum(1 - math.exp(lp) for lp in log_ps), hits, stop_p, len(losses)]
        return list(torch.autograd.grad(loss, list(self.leaves.values()))), np.array(sums)

    def answer(
        self, objective: str, weighted: bool, blanks: list[int]
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Gradients and metrics of the batch without the targets of the rows ``blanks``."""
        for i in range(ROWS):
            if (i, objective, weighted) not in self.known:
                self.known[i, objective, weighted] = self.row(i, objective, weighted)
        kept = [self.known[i, objective, weighted] for i in range(ROWS) if i not in blanks]
        sums = sum((row[1] for row in kept), np.zeros(6))
        loss, nll, one_minus_p, hits, stop_p, count = sums
        share = 1 / count if count else math.nan
        metrics = {
            "loss": loss * share,
            "nll": nll * share,
            "one_minus_p": one_minus_p * share,
            "accuracy": hits * share,
            "stop_p": stop_p / len(kept) if kept else math.nan,
            "target_tokens": count,
        }
        gradients = {
            name: sum((row[0][k] for row in kept), torch.zeros_like(leaf)) / max(count, 1)
            for k, (name, leaf) in enumerate(self.leaves.items())
        }
        return gradients, metrics


@pytest.fixture(scope="module")
def oracles(models, data) -> dict[tuple[str, str], Oracle]:
    return {
        (head, weights): Oracle(models[head], weights == "lora", data)
        for head in models
        for weights in ("full", "lora")
    }


# ------------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("name", ENGINES)
def test_gradients_and_metrics_are_the_oracles(computed, oracles, name):
    engine, wrong = ENGINES[name], []
    oracle = oracles[engine["head"], engine["weights"]]
    for case in CASES[name]:
        file = computed / name / case_name(case)
        metrics = json.loads(file.with_suffix(".json").read_text())
        expected, of_oracle = oracle.answer(case["objective"], case["weighted"], metrics["blanks"])
        for key, value in of_oracle.items():
            if metrics[key] != pytest.approx(value, rel=1e-5, nan_ok=True):
                wrong.append(f"{case_name(case)} {key}: expected {value}, found {metrics[key]}")
        gradients = load_file(file.with_suffix(".safetensors"))
        assert set(gradients) == set(expected)
        norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        for parameter, value in expected.items():
            # A gradient that is 0 but for rounding (the key bias) is held to the size of all of them.
            error = float((gradients[parameter].double() - value).norm() / max(float(value.norm()), 1e-3 * norm, 1e-30))
            if error > 1e-5:
                wrong.append(f"{case_name(case)} {parameter}: relative error {error:.2g}")
    assert not wrong, f"{len(wrong)} of {len(CASES[name])} cases x parameters:\n" + "\n".join(wrong[:20])


def test_the_grid_holds_every_pair_of_settings():
    """What the tests above ran, as pairs; so that no setting is only ever met together with one other."""
    settings = [{**engine, **case} for name, engine in ENGINES.items() for case in CASES[name]]
    values = {key: sorted({s[key] for s in settings}, key=str) for key in settings[0]}
    for one, other in itertools.combinations(values, 2):
        met = {(s[one], s[other]) for s in settings}
        for pair in itertools.product(values[one], values[other]):
            impossible = {one, other} == {"layout", "ranks"} and set(pair) == {"ulysses", 1}
            assert impossible or pair in met, f"{one}, {other} = {pair} was never tried"
    met = {(s["objective"], s["fused"], s["layout"], s["ranks"]) for s in settings}
    assert len(met) == len(OBJECTIVES) * 2 * 5, "an objective never met one of the heads under one of the five layouts"


def test_micro_batches_and_blanks_are_what_they_are_called(computed):
    for name, engine in ENGINES.items():
        replicas = 1 if engine["layout"] == "ulysses" else engine["ranks"]
        for case in CASES[name]:
            metrics = json.loads((computed / name / f"{case_name(case)}.json").read_text())
            # With one replica, "rank" leaves no target in the whole batch.
            assert len(metrics["blanks"]) == {"none": 0, "micro": 2, "rank": BATCH // replicas}[case["blank"]]
            by_budget = 3 if engine["ranks"] == 1 else 2
            assert metrics["micro_batches"] == (by_budget if case["micro"] == "budget" else case["micro"])
