"""How small the worlds of these tests are."""

from __future__ import annotations

from interlace.data_recipes.worlds.demo import DemoSettings

SIZE = 64
TIMES = [0.0, 0.25, 1.0]
TINY = DemoSettings(
    size=32,
    frames=4,
    train_rooms=4,
    held_out_rooms=2,
    train_scenes=2,
    picture_size=32,
    photograph_crops=1,
    clip_crops=1,
    object_centres=12,
    motion_centres=11,
)
