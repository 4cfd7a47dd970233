"""What a vLLM engine is to hold: its KV blocks and the weights that it leaves on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..base import CheckpointError, DeviceMemoryError, UnsupportedLevelError
from ..headers import TensorInfo


@dataclass(frozen=True)
class KvPlan:
    """The KV blocks that hold every request at its longest, so that vLLM never preempts one itself.

    Attributes:
        context_tokens: Most tokens of any one request.
        max_batch: Most requests at once.
        block_tokens: Tokens per block.
        bytes_per_token: Keys and values of one token over all layers, bytes.
    """

    context_tokens: int
    max_batch: int
    block_tokens: int
    bytes_per_token: int

    @property
    def blocks(self) -> int:
        """Blocks to ask for: requests share none, and vLLM keeps one for itself (its null block).

        vLLM does not start unless one request can reach its own limit, which is a token beyond ours.
        """
        needed = self.max_batch * -(-self.context_tokens // self.block_tokens)
        return max(needed, -(-(self.context_tokens + 1) // self.block_tokens)) + 1

    @property
    def total_bytes(self) -> int:
        """Memory that the blocks take."""
        return self.blocks * self.block_tokens * self.bytes_per_token


def check_blocks(plan: KvPlan, blocks: int, block_tokens: int) -> None:
    """Compares the blocks that vLLM says it has with those that the requests may need.

    Args:
        plan: What was asked for.
        blocks: What it has, its null block among them.
        block_tokens: Tokens per block there.

    Raises:
        DeviceMemoryError: They do not hold ``max_batch`` requests of ``context_tokens`` tokens.
    """
    usable = blocks - 1
    needed = plan.max_batch * -(-plan.context_tokens // block_tokens)
    if usable < needed:
        raise DeviceMemoryError(
            f"vLLM has {usable} KV blocks of {block_tokens} tokens, and {plan.max_batch} requests of "
            f"{plan.context_tokens} tokens need {needed}: it would preempt requests by itself"
        )


def check_shapes(
    checkpoint: str, tensors: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses stored tensors of another shape than the model's: vLLM would load a part of a larger one.

    Raises:
        CheckpointError: One has.
    """
    wrong = [name for name, info in tensors.items() if shapes.get(name, info.shape) != info.shape]
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{checkpoint}: {len(wrong)} weights are misshapen, first {first}: "
            f"{tensors[first].shape}, not {shapes[first]}"
        )


def offloaded_bytes(layers: Sequence[int], gpu_layers: int) -> int:
    """Bytes of weights that stay on the host: vLLM offloads from the first layer on.

    Args:
        layers: Bytes of each transformer layer.
        gpu_layers: Layers on the GPU, the output layer counted last.

    Raises:
        UnsupportedLevelError: It is 0: vLLM offloads transformer layers, never the output layer.
    """
    if gpu_layers == 0:
        raise UnsupportedLevelError("vLLM keeps the output layer on the GPU: gpu_layers must be at least 1")
    return sum(layers[: len(layers) + 1 - gpu_layers])


def check_offloaded(asked_bytes: int, done_bytes: int) -> None:
    """Compares the weights that vLLM says it left on the host with those that were to stay there.

    Raises:
        UnsupportedLevelError: They differ: it ignored the request, or offloads by another rule.
    """
    if done_bytes != asked_bytes:
        raise UnsupportedLevelError(
            f"vLLM left {done_bytes / 1e6:.1f} MB of weights on the host, and these gpu_layers are "
            f"{asked_bytes / 1e6:.1f} MB"
        )
