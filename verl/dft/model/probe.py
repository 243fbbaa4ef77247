"""Whether rows that are computed together are computed as each would be alone: tried, not looked up in a list.

The reference is transformers' eager attention with one row at a time, which shares no code with what is tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from verl.dft.model import attention
from verl.dft.model.loading import check_heads, layers_of_text, text_config, text_only_inputs, without_weights
from verl.dft.model.small_copy import LIMIT, SmallCopy, noise_of

PACKED, PADDED, SINGLE = "packed", "padded", "one row at a time"
# Nats by which log p of a token may differ. Rows that leak differ by 0.01 to 10.
TOLERANCE = {torch.float32: 3e-4, torch.bfloat16: 0.5, torch.float16: 0.1}
LENGTHS = (LIMIT - 3, 3 * LIMIT + 1, LIMIT + 4, 1)  # of the rows that are tried, around the limits of a small copy


@dataclass(frozen=True)
class Plan:
    """How a model is trained. attention: transformers' name. layout: PACKED, PADDED or SINGLE.

    lines: what differs from the default and why, to be said once.
    """

    attention: str
    layout: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What the user chose; None where the choice is left to the probe. shards: Ulysses' size, longest: of all rows."""

    attention: str | None = None
    packed: bool | None = None
    shards: int = 1
    longest: int = 2048

    @property
    def flash(self) -> bool:
        """Whether flash-attn is asked for, which computes in half precision and on a GPU only."""
        return self.attention == "flash_attention_2"


def choose(hf_config: Any, wishes: Wishes, trust_remote_code: bool = False, device: Any = "cpu") -> Plan:
    """The first way to train this model that is exact, tried on a small copy of it; weights are not needed.

    Packed rows with our attention, padded rows with it, padded rows with
    transformers' sdpa or eager attention, and one row at a time. Raises ValueError if none is, or none that was
    wished for.
    """
    check_heads(hf_config, wishes.shards)
    attention.register()
    name = type(hf_config).model_type
    dtype = torch.bfloat16 if wishes.flash else torch.float32
    try:
        copy = SmallCopy(hf_config, wishes.longest, trust_remote_code, device, dtype)
        rows = _rows(copy)
        expected = [_alone(copy.built("eager"), row) for row in rows]
    except Exception as error:
        raise ValueError(
            f"the model ({name}) cannot be tried with text alone, so nothing says that it would be trained correctly: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    reasons: dict[str, str] = {}
    for implementation, layout in _candidates(wishes):
        reason = _difference(copy, implementation, layout, rows, expected)
        if reason is None:
            return Plan(implementation, layout, _lines(hf_config, wishes, implementation, layout, reasons))
        reasons[f"{implementation}, {layout}"] = reason
    told = "; ".join(f"{what}: {reason}" for what, reason in reasons.items())
    raise ValueError(f"this model ({name}) cannot be trained exactly {_as_wished(wishes)}. {told}.")


def _candidates(wishes: Wishes) -> list[tuple[str, str]]:
    names = [wishes.attention] if wishes.attention else [attention.NAME, "sdpa", "eager"]
    if wishes.packed or wishes.shards > 1:
        layouts = [PACKED]
    else:
        layouts = [PADDED, SINGLE] if wishes.packed is False else [PACKED, PADDED, SINGLE]
    # transformers' own attention over packed rows takes memory with the square of their sum: only if asked for.
    can_pack = {"flash_attention_2", attention.NAME, *([wishes.attention] if wishes.packed else [])}
    found = [(name, layout) for layout in layouts for name in names if layout != PACKED or name in can_pack]
    return found


def _as_wished(wishes: Wishes) -> str:
    chosen = []
    if wishes.attention:
        chosen.append(f"with model.override_config.attn_implementation={wishes.attention}")
    if wishes.packed is not None:
        chosen.append(f"with use_remove_padding={str(wishes.packed).lower()}")
    if wishes.shards > 1:
        chosen.append(f"with ulysses_sequence_parallel_size={wishes.shards}, which needs packed rows")
    return ("; remove what was chosen, or choose another model: " if chosen else "in any way known here") + (
        " and ".join(chosen)
    )


def _lines(
    hf_config: Any, wishes: Wishes, implementation: str, layout: str, reasons: dict[str, str]
) -> tuple[str, ...]:
    """What a user should know: a layout or an attention that is not the usual one, and noise."""
    lines = []
    usual = wishes.attention or attention.NAME
    asked = PADDED if wishes.packed is False else PACKED
    if layout != asked or implementation != usual:
        first = next(iter(reasons.values()), "")
        what = {PACKED: "packed", PADDED: "padded", SINGLE: "computed one at a time"}[layout]
        lines.append(
            f"Rows are {what}, with {implementation} attention: {usual} attention with {asked} rows is not exact for "
            f"this model ({first})."
        )
    noise = noise_of(hf_config)
    if noise:
        told = ", ".join(f"{key}={value}" for key, value in noise.items())
        lines.append(f"In training this model computes with noise, as its configuration says ({told}).")
    return tuple(lines)


def _rows(copy: SmallCopy) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    known = copy.vocabulary
    return [torch.randint(1, known, (n,), generator=generator).to(copy.device) for n in LENGTHS]


def _difference(
    copy: SmallCopy, implementation: str, layout: str, rows: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> str | None:
    """Why rows are not computed as they should be; None where they are."""
    try:
        module = copy.built(implementation)
        found = {PACKED: _packed, PADDED: _padded, SINGLE: _one_by_one}[layout](module, rows)
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    worst = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True) if len(a))
    if not worst <= TOLERANCE[copy.dtype]:  # NaN too
        return f"log p of a token moves by {worst:.1g}"
    return None


def _alone(module: Any, row: torch.Tensor) -> torch.Tensor:
    places = torch.arange(len(row), device=row.device).unsqueeze(0)
    return _log_probs(module, row.unsqueeze(0), places, {})[0]


def _one_by_one(module: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [_padded(module, [row])[0] for row in rows]


def _padded(module: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    def together(pieces: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)

    places = together([torch.arange(len(row), device=row.device) for row in rows])
    mask = together([torch.ones_like(row) for row in rows])
    found = _log_probs(module, together(list(rows)), places, {"attention_mask": mask})
    return [x[: len(row) - 1] for x, row in zip(found, rows, strict=True)]


def _packed(module: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    places = torch.cat([torch.arange(len(row), device=row.device) for row in rows]).unsqueeze(0)
    lengths = torch.tensor([len(row) for row in rows])
    borders = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    found = _log_probs(module, torch.cat(list(rows)).unsqueeze(0), places, packed_inputs(module, borders))[0]
    return [found[start : start + len(row) - 1] for start, row in zip(borders.tolist(), rows, strict=False)]


def packed_inputs(module: Any, borders: torch.Tensor) -> dict[str, Any]:
    """What a model is told about the rows of its packed input, beside their positions.

    borders: ``(rows + 1,)`` on the host, from 0 to the number of tokens.
    """
    device = next(module.parameters()).device
    inputs: dict[str, Any] = {"attention_mask": None}
    if module.config._attn_implementation == attention.NAME:
        inputs["packed_rows"] = attention.PackedRows(borders, device)
    return inputs


@torch.no_grad()
def _log_probs(module: Any, ids: torch.Tensor, places: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """``(B, T - 1)``: log p of each token after the first."""
    given = {**inputs, **text_only_inputs(module, ids)}
    logits = module(input_ids=ids, position_ids=places, use_cache=False, **given).logits.float()
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def adaptable(hf_config: Any, lora: dict[str, Any], trust_remote_code: bool = False) -> tuple[list[str] | None, str]:
    """Whether LoRA runs on this model as asked, tried on a small copy: ``(None, "")`` if so.

    Of ``target_modules="all-linear"`` there is a smaller choice: the names of all plain linear layers, without routers
    and experts, and a line that says so. Raises ValueError where nothing runs.
    """
    attention.register()
    copy = SmallCopy(hf_config, max(LENGTHS), trust_remote_code, "cpu", torch.float32)

    def failure(**changes: Any) -> str | None:
        try:
            module = get_peft_model(copy.built("eager"), LoraConfig(task_type="CAUSAL_LM", **{**lora, **changes}))
            _alone(module, torch.ones(3, dtype=torch.long))
        except Exception as error:
            return f"{type(error).__name__}: {_first_line(error)}"
        return _shards_alone_and_adapted(module)

    reason = failure()
    if reason is None:
        return None, ""
    layers = layers_of_text(copy.built("eager"))
    plain = sorted({name.rsplit(".", 1)[-1] for name, m in layers.named_modules() if type(m) is torch.nn.Linear})
    if lora.get("target_modules") == "all-linear" and plain and failure(target_modules=plain) is None:
        return plain, f"LoRA adapts {', '.join(plain)} and leaves out what peft cannot adapt in this model ({reason})."
    raise ValueError(
        f"LoRA does not run on this model as asked: {reason}. Set model.target_modules to some of {', '.join(plain)}."
    )


def _shards_alone_and_adapted(module: Any) -> str | None:
    """FSDP shards an untied embedding and output layer as modules of their own, and cannot take peft's for them."""
    model = module.get_base_model()
    ends = {"input embedding": model.get_input_embeddings(), "output layer": model.get_output_embeddings()}
    adapted = [name for name, layer in ends.items() if hasattr(layer, "base_layer")]
    if not adapted or ends["input embedding"] is ends["output layer"] or model.config.tie_word_embeddings:
        return None
    return f"FSDP cannot shard the adapted {' and '.join(adapted)} of a model in which the two are not tied"


def has_learned_positions(hf_config: Any, trust_remote_code: bool = False) -> bool:
    """Whether the model looks positions up in a table of ``max_position_embeddings`` entries."""
    with torch.device("meta"):
        module = without_weights(hf_config, trust_remote_code, attn_implementation="eager")
    words = module.get_input_embeddings()
    context = text_config(hf_config).max_position_embeddings
    tables = [m for m in module.modules() if isinstance(m, torch.nn.Embedding) and m is not words]
    return any(context <= table.num_embeddings <= context + 2 for table in tables)  # OPT's has two more
