"""The scoring network in torch, as an sb3-contrib policy, and its export to a policy file.

The arithmetic is that of ``shunter.agents.learned``, which runs the exported weights in numpy.
"""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from torch import nn

from shunter.agents.learned import (
    CONTEXT_WIDE,
    RESIDUAL,
    WIDE,
    Arrays,
    Prior,
    greedy_prior,
    layer_shapes,
)
from shunter.envs.features import CONTEXT_FEATURES, CONTEXT_TABLE, FEATURES
from shunter.errors import InputError

__all__ = ["CandidatePolicy", "ScoringNetwork"]

Latents = tuple[torch.Tensor, torch.Tensor]


def _compressed(features: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.log1p(features), 0.2 * torch.log1p(1e3 * features[:, wide])], dim=-1)


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


class ScoringNetwork(nn.Module):
    """Scores candidates with shared weights and values the state from what they pool to.

    Every decision has at least one legal candidate.

    Args:
        actions: Number of candidates A.
        width: Of the hidden layers.
        twin: Whether observations end with what a twin sees, for the value alone.
    """

    def __init__(self, actions: int, width: int, *, twin: bool = False) -> None:
        super().__init__()
        self.actions, self.twin = actions, twin
        self.layers = nn.ModuleDict({name: nn.Linear(i, o) for name, (o, i) in layer_shapes(width).items()})
        pooled = layer_shapes(width)["score_1"][1] - width
        beside = len(CONTEXT_TABLE) + len(CONTEXT_WIDE) if twin else 0
        self.value = nn.Sequential(nn.Linear(pooled + beside, width), nn.Tanh())
        self.register_buffer("prior", torch.tensor(Prior()))
        self.register_buffer("wide", torch.from_numpy(WIDE), persistent=False)
        self.register_buffer("context_wide", torch.from_numpy(CONTEXT_WIDE), persistent=False)
        self.latent_dim_pi = actions
        self.latent_dim_vf = width
        nn.init.zeros_(self.layers["score_2"].weight)
        nn.init.zeros_(self.layers["score_2"].bias)

    def forward(self, flat: torch.Tensor) -> Latents:
        """Logits (n, A) and value features (n, width) of observations flattened in order of their keys."""
        mask, candidates, context, twin = self._unflatten(flat)
        legal = mask > 0
        rows, lengths = candidates[legal], legal.sum(-1)  # of each decision, one after the other
        prior = torch.from_numpy(greedy_prior(rows.numpy(force=True), self.numbers())).to(flat.device)
        seen = torch.cat([_compressed(rows, self.wide), prior[:, None] / (4.0 * RESIDUAL)], dim=-1)
        hidden = torch.tanh(self.layers["encode_1"](seen))
        hidden = torch.tanh(self.layers["encode_2"](hidden))
        pooled = [torch.segment_reduce(hidden, how, lengths=lengths) for how in ("mean", "max")]
        shared = torch.cat([*pooled, _compressed(context, self.context_wide)], dim=-1)
        # A layer on [hidden, shared], its second part computed once for all candidates of a decision.
        layer = self.layers["score_1"]
        own, common = layer.weight.split([hidden.shape[-1], shared.shape[-1]], dim=1)
        common_part = nn.functional.linear(shared, common, layer.bias)
        wide = torch.tanh(nn.functional.linear(hidden, own) + _Repeated.apply(common_part, lengths))
        scored = self.layers["score_2"](wide).squeeze(-1) + prior
        return flat.new_zeros(legal.shape).masked_scatter(legal, scored), self.value(
            torch.cat([shared, _compressed(twin, self.context_wide)], dim=-1) if self.twin else shared
        )

    def forward_actor(self, flat: torch.Tensor) -> torch.Tensor:
        """Logits only."""
        return self.forward(flat)[0]

    def forward_critic(self, flat: torch.Tensor) -> torch.Tensor:
        """Value features only."""
        return self.forward(flat)[1]

    def numbers(self) -> Prior:
        """What untrained logits rest on."""
        return Prior(*self.prior.tolist())

    def exported(self) -> Arrays:
        """Weights of the policy part, by the names of a policy file."""
        layers = {
            f"{name}.{part}": getattr(layer, part).detach().cpu().numpy().copy()
            for name, layer in self.layers.items()
            for part in ("weight", "bias")
        }
        return {**layers, "prior": self.prior.numpy(force=True).copy()}

    def import_(self, weights: Arrays) -> None:
        """Takes over a policy file's weights.

        Raises:
            InputError: They are of another width.
        """
        width = len(weights["encode_1.bias"])
        if width != self.layers["encode_1"].out_features:
            raise InputError("--from", f"have width {self.layers['encode_1'].out_features}", width)
        with torch.no_grad():
            self.prior.copy_(torch.from_numpy(weights["prior"]))
            for name, layer in self.layers.items():
                for part in ("weight", "bias"):
                    getattr(layer, part).copy_(torch.from_numpy(weights[f"{name}.{part}"]))

    def _unflatten(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        context = len(CONTEXT_FEATURES)
        sizes = [self.actions, self.actions * len(FEATURES), context, context * self.twin]
        mask, candidates, *others = flat.split(sizes, dim=-1)
        return mask, candidates.reshape(-1, self.actions, len(FEATURES)), *others


class CandidatePolicy(MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's masked policy with ``ScoringNetwork`` in place of an MLP over the flat observation."""

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.mlp_extractor = ScoringNetwork(
            int(self.action_space.n), self.width, twin="twin" in self.observation_space.spaces
        )
        self.action_net = nn.Identity()
        self.value_net = nn.Linear(self.width, 1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}
