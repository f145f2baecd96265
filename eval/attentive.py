"""The attentive probe of V-JEPA 2: self-attention over all tokens of a video, then one query that asks them.

Three self-attention blocks and a cross-attention block with a learned query (OmniStream, appendix C.2, table 11), a
linear classifier on what the query found. Several probes that differ in rate and decay learn from one frozen forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, SELF_BLOCKS, MLP_RATIO = 16, 3, 4
_STD = 0.02


def head_count(width: int) -> int:
    """16, or for a width that 16 does not divide the largest smaller number that does."""
    return max(count for count in range(1, HEADS + 1) if width % count == 0)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[N, q, D] of queries [N, q, D], keys and values [N, m, D]."""
    split = [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class _Block(nn.Module):
    """What both blocks have: norms before attention and before the MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = head_count(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))


class SelfBlock(_Block):
    """Tokens attend to each other. ``number``, from 1: deeper blocks begin smaller."""

    def __init__(self, width: int, number: int) -> None:
        super().__init__(width)
        self.out = nn.Linear(width, width)
        _begin(self, number + 1, self.out, self.mlp[2])

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, m, D] -> [N, m, D]."""
        normed = self.norm1(tokens)
        tokens = tokens + self.out(_attend(self.query(normed), self.key(normed), self.value(normed), self.heads))
        return tokens + self.mlp(self.norm2(tokens))


class CrossBlock(_Block):
    """Queries ask tokens; as in V-JEPA 2 there is no linear map after the attention, and queries are not normed."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        _begin(self, 1, self.mlp[2])

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries [N, q, D], tokens [N, m, D] -> [N, q, D]."""
        normed = self.norm1(tokens)
        queries = queries + _attend(self.query(queries), self.key(normed), self.value(normed), self.heads)
        return queries + self.mlp(self.norm2(queries))


def _begin(block: nn.Module, number: int, *last: nn.Module) -> None:
    """Truncated normal weights, zero biases; the last map of each branch is divided by sqrt(2 * number)."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_STD)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in last:
            assert isinstance(module, nn.Linear)
            module.weight.div_((2 * number) ** 0.5)


class AttentiveProbe(nn.Module):
    """Tokens of a video to scores of classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=_STD))
        self.blocks = nn.ModuleList(SelfBlock(width, number) for number in range(1, SELF_BLOCKS + 1))
        self.cross = CrossBlock(width)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=_STD)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, m, D] -> [N, classes]."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.classifier(self.cross(self.query.expand(len(tokens), -1, -1), tokens)[:, 0])


@dataclass(frozen=True)
class Trial:
    """What one probe is trained with."""

    rate: float
    decay: float

    def __str__(self) -> str:
        return f"rate {self.rate:g}, decay {self.decay:g}"


def grid(rates: Sequence[float], decays: Sequence[float]) -> tuple[Trial, ...]:
    """Every rate with every decay."""
    return tuple(Trial(rate, decay) for rate in rates for decay in decays)


class Trials:
    """Probes that begin alike and learn from the same tokens: AdamW, cosine to 0 over ``steps``, no warm-up.

    Biases and norms do not decay.
    """

    def __init__(
        self, width: int, classes: int, trials: Sequence[Trial], steps: int, seed: int, device: str = "cpu"
    ) -> None:
        self.trials, self.device = tuple(trials), torch.device(device)
        self.probes, self.optimizers, self.schedules = [], [], []
        for trial in self.trials:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                probe = AttentiveProbe(width, classes).to(self.device)
            decaying = [each for each in probe.parameters() if each.ndim > 1]
            others = [each for each in probe.parameters() if each.ndim <= 1]
            groups = [{"params": decaying, "weight_decay": trial.decay}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=trial.rate)
            self.probes.append(probe)
            self.optimizers.append(optimizer)
            self.schedules.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps))

    def learn(self, parts: Iterable[tuple[Tensor, Tensor]], count: int) -> None:
        """One step of every probe on ``count`` videos in parts: tokens [n, m, D], classes [n] int64."""
        with torch.enable_grad():
            for tokens, classes in parts:
                there, truth = tokens.to(self.device), classes.to(self.device)
                for probe in self.probes:
                    (F.cross_entropy(probe(there), truth, reduction="sum") / count).backward()
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    @torch.no_grad()
    def shares(self, tokens: Tensor) -> Tensor:
        """Softmax over classes of every probe, [trials, n, classes] float64 on the CPU, of tokens [n, m, D]."""
        there = tokens.to(self.device)
        return torch.stack([probe(there).double().softmax(-1).cpu() for probe in self.probes])
