"""The rooms of these tests. Not in conftest.py: processes that draw find this by its name, and that one is shared."""

from __future__ import annotations

from interlace.data_recipes import Sample
from interlace.data_recipes.worlds import drafts
from interlace.data_recipes.worlds.demo import DemoSettings
from interlace.data_recipes.worlds.render import RAYS
from interlace.data_recipes.worlds.rooms import ClipShape

SETTINGS = DemoSettings(size=32, frames=4, train_rooms=6, held_out_rooms=3, train_scenes=2, picture_size=32)


def jobs(held_out: bool) -> list[drafts.Job]:
    number = SETTINGS.held_out_rooms if held_out else SETTINGS.train_rooms
    first = drafts.HELD_OUT_ROOMS if held_out else 0
    return [
        drafts.Job(
            dataset="rooms_held_out" if held_out else "rooms_train",
            kind="room",
            item=first + k,
            held_out=held_out,
            seed=SETTINGS.seed,
            shape=ClipShape(SETTINGS.size, SETTINGS.frames, SETTINGS.fps),
            picture_size=SETTINGS.picture_size,
            takes=SETTINGS.held_out_scenes if held_out else SETTINGS.train_scenes,
        )
        for k in range(number)
    ]


def drawn(job: drafts.Job) -> list[Sample]:
    return drafts.make_samples(job, RAYS)
