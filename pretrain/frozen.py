"""Frozen means frozen: a backbone that is not trained is hashed before and after, and a change refuses the run."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist

from interlace.backbone import Backbone, NotFrozen
from interlace.backbone.digest import combined, tensor_digest, tensor_digests

from .student import BACKBONE
from .zero import ZeroEngine


class FrozenGuard:
    """Holds the engine's backbone, gathered from all ranks, against the one that was loaded.

    Make it of the loaded backbone, before the engine takes it over.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._loaded = tensor_digests(backbone)

    @property
    def sha256(self) -> str:
        """The hash of the loaded backbone, as :func:`interlace.backbone.digest.digest` gives it."""
        return combined(self._loaded)

    def check(self, engine: ZeroEngine, when: str) -> None:
        """Raise :class:`NotFrozen` on every rank if a parameter or buffer on any rank is not what was loaded.

        Collective. ``when``: for the message, as in "before training".
        """
        found = {
            name.removeprefix(f"{BACKBONE}."): tensor_digest(t) for name, t in engine.named_masters(f"{BACKBONE}.")
        }
        for name, buffer in engine.backbone_buffers():
            found[name] = tensor_digest(buffer)
        changed: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(changed, _differing(self._loaded, found))
        names = sorted({name for rank in changed for name in rank})
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise NotFrozen(
                f"the frozen backbone is not what was loaded, {when}: {', '.join(names[:5])}{more} changed; "
                "nothing of this run may be used"
            )


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
