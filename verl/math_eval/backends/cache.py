"""A KV cache that makes room ahead: transformers' own copies all keys and values at every token."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

AHEAD = 64  # tokens of room that are made at a time


class RoomyLayer(DynamicLayer):
    """keys and values, (batch, heads, tokens, width), are views of the filled part of larger tensors."""

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append new keys and values to those that are there, and return all of them."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None and self.values is not None
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < end:
            self.room = _with_room(self.keys, end + AHEAD), _with_room(self.values, end + AHEAD)
        for whole, new in zip(self.room, (key_states, value_states), strict=True):
            whole[..., start:end, :] = new
        self.keys, self.values = (whole[..., :end, :] for whole in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch; room is made again at the next token."""
        super().batch_select_indices(indices)
        self.room = None


def _with_room(filled: torch.Tensor, tokens: int) -> torch.Tensor:
    batch, heads, length, width = filled.shape
    whole = filled.new_empty(batch, heads, tokens, width)
    whole[..., :length, :] = filled
    return whole


def roomy_cache(config) -> DynamicCache:
    """The model's cache, with :class:`RoomyLayer` where every token is kept; sliding windows stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
