"""The frozen initial model beside the model in training, for objectives that compare the two."""

from contextlib import nullcontext
from typing import Any

import torch

from verl.dft.model.output_layer import output_layer, reading


class Reference:
    """Answers what the initial model says at some positions of the same inputs.

    module: the trained module itself where training adds LoRA adapters, which are switched off for the question;
    otherwise a second, frozen module. Call its methods on all ranks together.
    """

    def __init__(self, module: torch.nn.Module, is_adapted: bool) -> None:
        self.module = module
        self.is_adapted = is_adapted
        self._weight: torch.Tensor | None = None

    def hidden_and_weight(self, inputs: dict[str, Any], positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reference's hidden states ``(n, H)`` at ``positions`` and the weight ``(V, H)`` of its output layer.

        FSDP shows the weight during the forward pass only, so one whole copy of it is kept: V x H numbers.
        """
        layer = output_layer(self.module)
        found: list[torch.Tensor] = []

        def read(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            found.append(hidden.flatten(0, 1).index_select(0, positions))
            if self._weight is None:
                self._weight = weight.detach().to(hidden.dtype, copy=True)
            return found[0]

        with reading(layer, read):
            self._run(inputs)
        assert self._weight is not None
        return found[0], self._weight

    def logits(self, inputs: dict[str, Any], positions: torch.Tensor) -> torch.Tensor:
        """The reference's logits ``(n, V)`` at ``positions``."""
        return self._run(inputs).flatten(0, 1).index_select(0, positions)

    def _run(self, inputs: dict[str, Any]) -> torch.Tensor:
        module: Any = self.module
        without_adapter = module.disable_adapter() if self.is_adapted else nullcontext()
        was_training = module.training
        module.eval()
        with torch.no_grad(), without_adapter:
            logits = module(**inputs, use_cache=False).logits
        module.train(was_training)
        return logits
