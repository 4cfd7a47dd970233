"""The scoring network in torch, as an sb3-contrib policy, and its export to a policy file.

The arithmetic is that of ``shunter.agents.learned.policy``, which runs the exported weights in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from torch import nn

from shunter.agents.learned.base_policy import PRIOR_INPUT, BasePolicy, base_scores
from shunter.agents.learned.inputs import (
    CANDIDATE_FEATURE,
    CANDIDATE_SCALE,
    CONTEXT_FEATURE,
    CONTEXT_SCALE,
    INPUTS,
    KINDS,
)
from shunter.agents.learned.weights import Arrays, layer_shapes, width_of
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES, feature
from shunter.errors import InputError

Latents = tuple[torch.Tensor, torch.Tensor]

LOGITS_PER_SCORE = 4.0
"""How sharply decisions are drawn by their scores; a power of two, so that exports and imports are exact."""

IN_LOGITS = ("linear", "score_2.weight", "score_2.bias")
"""Weights that are in units of logits here, as gradient steps move logits, and of scores in a file."""


KIND_FLAGS = [feature(f"is_{kind}") for kind in KINDS]


class _Repeated(torch.autograd.Function):
    """Rows, each as often as its length; torch's own gradient of that takes far longer on a CPU."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(lengths)
        return torch.repeat_interleave(rows, lengths, dim=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (lengths,) = ctx.saved_tensors
        return torch.segment_reduce(gradient, "sum", lengths=lengths), None


class _Softsign(torch.autograd.Function):
    """x / (1 + |x|) in few passes over memory: with torch's own, a gradient step takes longer."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x / x.abs().add_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        return y.abs().sub_(1.0).square_().mul_(gradient)


class _Squashed(nn.Module):
    """Inputs of features as ``shunter.agents.learned.inputs`` makes them."""

    def __init__(self, index: NDArray[np.int64], scale: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        self.register_buffer("scale", torch.from_numpy(scale).float(), persistent=False)
        gain = np.where(scale == 0, 1.0, scale)
        self.register_buffer("gain", torch.from_numpy(gain).float(), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features[:, self.index]
        return self.gain * x / (1.0 + self.scale * x)


class ScoringNetwork(nn.Module):
    """Scores candidates with shared weights and values the state from what they pool to.

    Every decision has at least one legal candidate.

    Args:
        actions: Number of candidates A.
        width: Width of the hidden layers.
    """

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.actions, self.width = actions, width
        self.layers = nn.ModuleDict({name: nn.Linear(i, o) for name, (o, i) in layer_shapes(width).items()})
        self.linear = nn.Parameter(torch.zeros(len(KINDS), INPUTS))
        self.value = nn.Sequential(nn.Linear(2 * width + len(CONTEXT_FEATURE), width), nn.Tanh())
        self.own_inputs = _Squashed(CANDIDATE_FEATURE, CANDIDATE_SCALE)
        self.shared_inputs = _Squashed(CONTEXT_FEATURE, CONTEXT_SCALE)
        self.register_buffer("prior", torch.tensor(BasePolicy()))
        self.latent_dim_pi = actions
        self.latent_dim_vf = width
        nn.init.zeros_(self.layers["score_2"].weight)
        nn.init.zeros_(self.layers["score_2"].bias)

    def forward(self, flat: torch.Tensor) -> Latents:
        """Logits (n, A) and value features (n, width) of observations flattened in order of their keys."""
        mask, candidates, context = self._unflatten(flat)
        legal = mask > 0
        rows, lengths = candidates[legal], legal.sum(-1)  # of each decision, one after the other
        prior = torch.from_numpy(base_scores(rows.numpy(force=True), self.numbers())).to(flat)
        own, shared = self.own_inputs(rows), self.shared_inputs(context)
        hidden = self._layer("encode_1", torch.cat([own, PRIOR_INPUT * prior[:, None]], dim=-1))
        hidden = self._layer("encode_2", hidden)
        pooled = torch.cat(
            [*(torch.segment_reduce(hidden, how, lengths=lengths) for how in ("mean", "max")), shared], dim=-1
        )
        # A layer on [hidden, pooled], its second part computed once for all candidates of a decision.
        layer = self.layers["score_1"]
        mine, common = layer.weight.split([self.width, pooled.shape[-1]], dim=1)
        common_part = nn.functional.linear(pooled, common, layer.bias)
        last = _Softsign.apply(nn.functional.linear(hidden, mine) + _Repeated.apply(common_part, lengths))
        scored = self.layers["score_2"](last).squeeze(-1) + self._linear(rows, own, shared, lengths)
        scored = scored + LOGITS_PER_SCORE * prior
        return flat.new_zeros(legal.shape).masked_scatter(legal, scored), self.value(pooled)

    def forward_actor(self, flat: torch.Tensor) -> torch.Tensor:
        """Logits only."""
        return self.forward(flat)[0]

    def forward_critic(self, flat: torch.Tensor) -> torch.Tensor:
        """Value features only."""
        return self.forward(flat)[1]

    def numbers(self) -> BasePolicy:
        """What untrained logits rest on."""
        return BasePolicy(*self.prior.tolist())

    def exported(self) -> Arrays:
        """Weights of the policy part, by the names of a policy file."""
        return {
            name: tensor.numpy(force=True) / np.float32(LOGITS_PER_SCORE if name in IN_LOGITS else 1.0)
            for name, tensor in self._tensors().items()
        }

    def import_(self, weights: Arrays) -> None:
        """Takes over a policy file's weights; without a network in them, this one's adds nothing at first.

        Raises:
            InputError: Their network is of another width.
        """
        width = width_of(weights)
        if width not in (0, self.width):
            raise InputError("--from", f"have width {self.width}, or no network", width)
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in weights:
                    tensor.copy_(torch.from_numpy(weights[name]))
                    tensor *= LOGITS_PER_SCORE if name in IN_LOGITS else 1.0
                elif name in IN_LOGITS:
                    tensor.zero_()

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Tensors of the policy part, by the names of a policy file."""
        layers = {
            f"{layer}.{part}": x for layer, m in self.layers.items() for part, x in m.named_parameters()
        }
        return {"prior": self.prior, "linear": self.linear, **layers}

    def _linear(
        self, rows: torch.Tensor, own: torch.Tensor, shared: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """What the weights of each candidate's kind say."""
        sizes = [own.shape[-1], shared.shape[-1], 1]
        of_own, of_shared, constant = self.linear.split(sizes, dim=1)
        common = nn.functional.linear(shared, of_shared, constant.squeeze(-1))
        by_kind = nn.functional.linear(own, of_own) + _Repeated.apply(common, lengths)
        kind = (rows[:, KIND_FLAGS] > 0).byte().argmax(dim=-1, keepdim=True)
        return by_kind.gather(1, kind).squeeze(-1)

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Softsign.apply(self.layers[name](x))
        return y

    def _unflatten(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [self.actions, self.actions * len(FEATURES), len(CONTEXT_FEATURES)]
        mask, candidates, context = flat.split(sizes, dim=-1)
        return mask, candidates.reshape(-1, self.actions, len(FEATURES)), context


class CandidatePolicy(MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's masked policy with ``ScoringNetwork`` in place of an MLP over the flat observation."""

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.mlp_extractor = ScoringNetwork(int(self.action_space.n), self.width)
        self.action_net = nn.Identity()
        self.value_net = nn.Linear(self.width, 1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}
