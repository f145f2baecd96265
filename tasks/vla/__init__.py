"""A vision-language-action model on a frozen backbone."""

from .control import Policy
from .options import VlaOptions
from .saved import load_vla
from .task import Vla

__all__ = ["Policy", "Vla", "VlaOptions", "load_vla"]
