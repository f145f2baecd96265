"""A trained policy in control of a robot: a frame in, an action out."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import numpy as np
import torch

from interlace.backbone import Backbone
from interlace.data_recipes.action_scale import ActionScale

from ..frames import resize
from .task import Vla


class Policy:
    """Acts on one robot, as the policy was trained: the same ``context``, ``execute``, size, prompt and scale.

    A context manager. :meth:`begin` an instruction, then :meth:`act` on every frame that comes. ``scale``: that of the
    robot's actions, where the caller knows it; DataError where it is not the one that the policy was trained with.
    """

    def __init__(self, task: Vla, backbone: Backbone, *, scale: ActionScale | None = None, name: str = "robot") -> None:
        if scale is not None:
            task.scale.demand_same(scale, name)
        self._task, self._backbone = task.eval(), backbone
        options = task.options
        self._stream = None
        if options.context > 1 and not options.blind:
            self._stream = backbone.stream(1, options.size, options.size, window=options.context)
        self._instruction: str | None = None
        self._waiting: deque[np.ndarray] = deque()

    @property
    def every(self) -> int:
        """Which frames it needs: 1 each, n every n-th since an instruction began, 0 none. Others may be old ones."""
        options = self._task.options
        return 0 if options.blind else options.execute if options.context == 1 else 1

    def begin(self, instruction: str) -> None:
        """What to do from here on; what was seen before is forgotten. ValueError for an empty instruction."""
        if not instruction:
            raise ValueError("policy: the instruction is empty")
        self._instruction = instruction
        self._waiting.clear()
        if self._stream is not None:
            self._stream.reset()

    def act(self, frame: np.ndarray) -> np.ndarray:
        """``frame`` [H, W, 3] uint8 -> [A] float32, as the robot is told.

        It is looked at when the actions of the last look were run; a frame that is not still enters the stream.
        """
        if self._instruction is None:
            raise ValueError("policy: begin an instruction before it acts")
        task, size = self._task, self._task.options.size
        pixels = torch.from_numpy(resize(frame[None], (size, size))).to(task.query.device)
        seen = None if self._stream is None else self._stream(pixels[None]).patches[0]
        if not self._waiting:
            patches = task.features(self._backbone, pixels, [0]) if seen is None else seen
            self._waiting.extend(task.predict(self._instruction, patches)[0, : task.options.execute])
        return self._waiting.popleft()

    def __enter__(self) -> Policy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
