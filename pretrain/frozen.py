"""Frozen means frozen: a backbone that is not trained is hashed before and after, and a change refuses the run."""

from __future__ import annotations

import torch.distributed as dist

from interlace.backbone import FrozenBackbone, NotFrozen
from interlace.backbone.digest import combined, tensor_digests


class FrozenGuard:
    """Holds every rank's backbone against the one that was loaded. Make it when the backbone is loaded."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        self._backbone, self._loaded = backbone, tensor_digests(backbone)

    @property
    def sha256(self) -> str:
        """The hash of the loaded backbone, as :func:`interlace.backbone.digest.digest` gives it."""
        return combined(self._loaded)

    def check(self, when: str) -> None:
        """Raise :class:`NotFrozen` on every rank if a parameter or buffer of any rank is not what was loaded.

        Collective. Ranks that loaded different files differ too. ``when``: for the message, as in "before training".
        """
        gathered: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, tensor_digests(self._backbone))
        changed: set[str] = set()
        for found in gathered:
            changed |= {name for name in {*self._loaded, *found} if self._loaded.get(name) != found.get(name)}
        # A rank that loaded something else finds all others changed, and so does every other rank find it.
        if changed:
            names = sorted(changed)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise NotFrozen(
                f"the frozen backbone is not what was loaded, {when}: {', '.join(names[:5])}{more} changed; "
                "nothing of this run may be used"
            )
