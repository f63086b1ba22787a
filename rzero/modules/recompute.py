"""Layers that are run again in the backward pass (gradient checkpointing), without holes in a CPU's heap.

Of a layer that will be run again torch keeps the input and, in its default way, the graph too: hundreds of small
objects. glibc puts some of them into the gaps that alignment leaves beside large tensors, so that the memory of a
layer's tensors is no longer in one piece when the next layer asks for as much: the heap grows by 20 MB a layer of half
a billion parameters while no more is in use. torch's other way ("reentrant") keeps the input alone. Values and
gradients are the same.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from rzero.adapters import unwrap_adapters


def keep_inputs_alone(model: nn.Module) -> None:
    """Where a model's layers are run again in the backward pass, lets them keep nothing else until then.

    For a process that trains alone on a CPU: GPUs have an allocator without such gaps, and hooks of DDP and FSDP2 were
    not tried with a backward pass inside of a backward pass. A forward pass without gradients must be made in
    evaluation mode then; torch warns of it.
    """
    causal_lm: PreTrainedModel = unwrap_adapters(model)
    if causal_lm.is_gradient_checkpointing:
        causal_lm.disable_input_require_grads()  # or they would stand there twice
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
