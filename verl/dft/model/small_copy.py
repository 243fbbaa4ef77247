"""A small model that computes as a large one does: few layers, but every kind of them, small tables, random weights.

What can be learnt from it is learnt in seconds and before any weights are loaded: whether rows that are computed
together stay apart, and whether an implementation of attention computes what the model means.
"""

import copy
import re
from typing import Any

import torch

from verl.dft.model.loading import layers_of_text, text_config, without_weights

VOCABULARY = 128
LIMIT = 8  # to which windows and the like are shortened; rows must be longer
GAIN = 1.5  # of each random matrix: large scores, for caps and borders to show
EXPERTS = 16
WIDTH = 64  # of the hidden layers of feed-forward blocks

# Lengths at which a model changes what it computes.
_LENGTHS = re.compile(r"(^|_)(sliding_window|window_size|attention_chunk_size|original_max_position_embeddings)$")
_NOISE = re.compile(r"dropout|pdrop|drop_?path|jitter|layerdrop", re.IGNORECASE)
_WIDTHS = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def noise_of(hf_config: Any) -> dict[str, float]:
    """The settings by which a model computes with random noise while it trains."""
    values = text_config(hf_config).to_dict()
    return {
        key: value
        for key, value in values.items()
        if _NOISE.search(key) and isinstance(value, float | int) and not isinstance(value, bool) and value
    }


class SmallCopy:
    """Builds the same random model again and again, with any implementation of attention.

    longest: tokens of the longest row of training; a window that no row exceeds is left as it is, as a window that
    some row exceeds is shortened to ``LIMIT``.
    """

    def __init__(self, hf_config: Any, longest: int, trust_remote_code: bool, device: Any, dtype: torch.dtype) -> None:
        self.trust_remote_code, self.device, self.dtype = trust_remote_code, device, dtype
        self._state: dict[str, torch.Tensor] = {}
        failures: list[Exception] = []
        for thin in (True, False):  # not every model takes another width
            self.config = _shortened(hf_config, longest, trust_remote_code, thin)
            try:
                module = self._fresh("eager")
                with torch.no_grad():
                    module(input_ids=torch.zeros(1, 3, dtype=torch.long, device=device), use_cache=False)
            except Exception as error:
                failures.append(error)
                continue
            randomize(module)
            self._state = module.state_dict()
            return
        raise failures[-1]

    @property
    def vocabulary(self) -> int:
        """How many tokens the small model knows."""
        return int(text_config(self.config).vocab_size)

    def built(self, attention: str) -> Any:
        """The model with an implementation of attention, in training mode but without noise."""
        module = self._fresh(attention)
        module.load_state_dict(self._state)
        return module.train()

    def _fresh(self, attention: str) -> Any:
        config = copy.deepcopy(self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = without_weights(config, self.trust_remote_code, attn_implementation=attention)
        return module.to(self.device, self.dtype)


def _shortened(hf_config: Any, longest: int, trust_remote_code: bool, thin: bool) -> Any:
    config = copy.deepcopy(hf_config)
    config._attn_implementation = "eager"  # which every model has
    text = text_config(config)
    for part in (config, text):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(part, name, None) is not None:
                setattr(part, name, 0)
    with torch.device("meta"):
        layers = layers_of_text(without_weights(copy.deepcopy(config), trust_remote_code))
    depth, count = _depth(layers), len(layers)
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == count and count > 1:
            setattr(text, name, value[:depth])
        elif isinstance(value, dict):
            setattr(text, name, {k: _length(k, v, longest) for k, v in value.items()})
        elif _NOISE.search(name) and isinstance(value, float):
            setattr(text, name, 0.0)
        else:
            shorter = _length(name, value, longest)
            if shorter is not value:
                setattr(text, name, shorter)
    text.num_hidden_layers = depth
    if thin:
        _make_thin(text)
    return config


def _make_thin(text: Any) -> None:
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        if getattr(text, name, None):
            setattr(text, name, min(getattr(text, name), VOCABULARY))
    for name in _WIDTHS:
        if isinstance(getattr(text, name, None), int) and getattr(text, name) > WIDTH:
            setattr(text, name, WIDTH)
    for name in _EXPERTS:
        if isinstance(getattr(text, name, None), int) and getattr(text, name) > EXPERTS:
            setattr(text, name, EXPERTS)


def _length(name: str, value: Any, longest: int) -> Any:
    counts = isinstance(value, int) and not isinstance(value, bool) and _LENGTHS.search(name)
    return LIMIT if counts and LIMIT < value < longest else value


def _depth(layers: Any) -> int:
    """The fewest layers, from the first, among which every kind of layer is; two at least."""
    kinds = [_kind(layer) for layer in layers]
    return max([2, *(kinds.index(kind) + 1 for kind in set(kinds))]) if len(kinds) > 1 else 1


def _kind(layer: torch.nn.Module) -> tuple:
    """What tells two layers apart that are not copies: classes, and settings other than their number."""
    simple = (bool, int, float, str, type(None))
    return tuple(
        (
            type(m).__name__,
            *sorted((k, repr(v)) for k, v in vars(m).items() if isinstance(v, simple) and "idx" not in k),
        )
        for m in layer.modules()
    )


@torch.no_grad()
def randomize(module: torch.nn.Module) -> None:
    """Weights that are drawn around zero are drawn again, so large that no layer is close to doing nothing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        values = parameter.detach().float()
        centred = values.dim() > 1 and values.mean().abs() < 0.3 * values.std() and values.numel() > 1
        if centred:
            std = GAIN / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        elif values.dim() == 1 and not values.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
