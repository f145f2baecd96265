"""Self-supervision on images and clips: DINO, iBOT, KoLeo and Gram anchoring."""

from __future__ import annotations

from .options import SslOptions
from .task import Ssl

__all__ = ["Ssl", "SslOptions"]
