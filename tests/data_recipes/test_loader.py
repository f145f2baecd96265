"""The loader: the same batches with any workers and ranks, and from any step. Broken samples: test_broken.py."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_samples import make_sample, with_tests_on_path, write_samples
from torch import nn

from interlace.data_recipes import DataError, Sample, ShardReader
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.loader import Loader, MicroBatch, interleaved


class Echo:
    """A task whose batch tells which samples, frames and random numbers it was made from."""

    def __init__(self, needs: Sequence[str] = ("frames",), broken: str = "", slow: float = 0.0) -> None:
        self.needs, self.broken, self.slow = frozenset(needs), broken, slow

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        return np.sort(rng.choice(len(times), 2, replace=False))

    def item(self, sample: Sample, rng: np.random.Generator) -> Any:
        time.sleep(self.slow)
        if sample.key == self.broken:
            raise KeyError("a bug in the task")
        return torch.tensor([*sample.frames[:, 0, 0, 0].tolist(), rng.random()], dtype=torch.float64)

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        return {"rows": torch.stack(list(items)), "numbers": np.arange(len(items))}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardReader]:
    root = tmp_path_factory.mktemp("sources")
    numbers = {"rooms": range(11), "clips": range(20, 27)}
    return {
        name: ShardReader(write_samples(root / name, [make_sample(n) for n in own], ("frames", "depth")), name)
        for name, own in numbers.items()
    }


def make_feeds(sources: dict[str, ShardReader], **options: Any) -> dict[str, Feed]:
    shared = {"sources": sources, "weights": {"rooms": 2.0, "clips": 1.0}, "seed": 3}
    return {
        "ssl": Feed("ssl", Echo(**options), batch=7, micro_batches=2, **shared),
        "geometry": Feed("geometry", Echo(("frames", "depth")), batch=4, micro_batches=1, **shared),
    }


def steps(loader: Loader) -> list[list[MicroBatch]]:
    with loader:
        return list(loader)


def assert_equal(ours: list[list[MicroBatch]], theirs: list[list[MicroBatch]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert [(m.task, m.index, m.keys) for m in one] == [(m.task, m.index, m.keys) for m in other]
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.batch["rows"], b.batch["rows"])
            assert isinstance(b.batch["numbers"], np.ndarray)


PLAN = interleaved({"ssl": 2, "geometry": 1})


def test_default_plan_interleaves() -> None:
    assert interleaved({"a": 1, "b": 3, "c": 2}) == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1), ("b", 2)]


def test_workers_change_nothing(sources: dict[str, ShardReader]) -> None:
    here = steps(Loader(make_feeds(sources), PLAN, stop_step=5))
    assert [len(step) for step in here] == [3] * 5
    for workers in (1, 2):
        assert_equal(here, steps(Loader(make_feeds(sources), PLAN, stop_step=5, workers=workers)))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_parts_are_the_whole_batch(sources: dict[str, ShardReader], world: int) -> None:
    whole = steps(Loader(make_feeds(sources), PLAN, stop_step=3))
    parts = [steps(Loader(make_feeds(sources), PLAN, rank=rank, world=world, stop_step=3)) for rank in range(world)]
    for step, micros in enumerate(whole):
        for place, micro in enumerate(micros):
            mine = [parts[rank][step][place] for rank in range(world)]
            assert [key for part in mine for key in part.keys] == micro.keys
            assert torch.equal(torch.cat([part.batch["rows"] for part in mine]), micro.batch["rows"])
            sizes = [len(part.keys) for part in mine]
            assert max(sizes) - min(sizes) <= 1


def test_torch_pins_all_tensors_of_a_micro_batch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's pinning does with a micro-batch, on a machine that may have no GPU."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor + 100)
    numbers, text = np.arange(2), "depth"
    group = {"rows": [torch.tensor(2), text], "pair": (torch.tensor(3), 4)}
    batch = {"a": torch.tensor(1), "group": group, "n": numbers}
    micro = MicroBatch("ssl", 1, batch, ["rooms/3"], [])
    found = torch.utils.data._utils.pin_memory.pin_memory(micro)
    assert found.batch == {"a": 101, "group": {"rows": [102, text], "pair": (103, 4)}, "n": numbers}
    assert isinstance(found.batch["group"]["pair"], tuple)
    assert (found.task, found.index, found.keys, found.broken) == ("ssl", 1, ["rooms/3"], [])
    assert batch["a"] == 1


def test_starting_later_goes_on(sources: dict[str, ShardReader]) -> None:
    whole = steps(Loader(make_feeds(sources), PLAN, stop_step=6))
    assert_equal(whole[4:], steps(Loader(make_feeds(sources), PLAN, start_step=4, stop_step=6)))


def test_plan_may_depend_on_the_step(sources: dict[str, ShardReader]) -> None:
    def turned(step: int) -> list[tuple[str, int]]:
        return PLAN[step % 3 :] + PLAN[: step % 3]

    straight = steps(Loader(make_feeds(sources), PLAN, stop_step=3))
    found = steps(Loader(make_feeds(sources), turned, stop_step=3))
    assert [(micro.task, micro.index) for micro in found[1]] == turned(1)
    assert_equal(straight, [sorted(step, key=lambda m: PLAN.index((m.task, m.index))) for step in found])


def test_every_sample_once_an_epoch_in_the_mixtures_shares(sources: dict[str, ShardReader]) -> None:
    feed = make_feeds(sources)["ssl"]
    keys = [key for step in range(7) for micro in range(2) for key in feed.micro_batch(step, micro).keys]
    cursors = feed.cursors(7)
    for name, source in sources.items():
        own = [key for key in keys if key.startswith(name)]
        order = feed.orders[name].fingerprint
        where = {"drawn": len(own), "samples": len(source), "epoch": len(own) // len(source), "order": order}
        assert cursors[name] == where
        for begin in range(0, len(own) - len(source) + 1, len(source)):
            assert set(Counter(own[begin : begin + len(source)]).values()) == {1}
        assert len(own) >= 2 * len(source)
    assert json.loads(json.dumps(cursors)) == cursors


def test_cursors_do_not_count_what_was_loaded_ahead(sources: dict[str, ShardReader]) -> None:
    with Loader(make_feeds(sources), PLAN, stop_step=9, workers=1) as loader:
        next(iter(loader))
        drawn = {task: sum(at["drawn"] for at in found.values()) for task, found in loader.cursors(1).items()}
    assert drawn == {"ssl": 14, "geometry": 4}


def test_randomness_is_the_draws_own(sources: dict[str, ShardReader]) -> None:
    rows = torch.cat([m.batch["rows"] for step in steps(Loader(make_feeds(sources), PLAN, stop_step=4)) for m in step])
    assert len(rows[:, -1].unique()) == len(rows) == 4 * 18
    other = make_feeds(sources)["ssl"]
    other.seed = 4
    assert not torch.equal(
        other.micro_batch(0, 0).batch["rows"], make_feeds(sources)["ssl"].micro_batch(0, 0).batch["rows"]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_not_touched(sources: dict[str, ShardReader], workers: int) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    steps(Loader(make_feeds(sources), PLAN, stop_step=1, workers=workers))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_waiting_is_measured(sources: dict[str, ShardReader]) -> None:
    loader = Loader(make_feeds(sources, slow=0.01), PLAN, stop_step=2)
    with loader:
        for _ in loader:
            assert 14 * 0.01 <= loader.waited() < 5
            assert loader.waited() == 0
            time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_task_names_the_sample(sources: dict[str, ShardReader], workers: int) -> None:
    with pytest.raises(KeyError) as caught:
        steps(Loader(make_feeds(sources, broken="rooms/000004"), PLAN, stop_step=5, workers=workers))
    text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "a bug in the task" in text
    assert "task 'ssl' made draw" in text
    assert "source 'rooms', key 'rooms/000004'" in text


def test_a_source_lacking_what_the_task_needs(sources: dict[str, ShardReader]) -> None:
    with pytest.raises(DataError, match="task 'x' needs camera; source 'rooms' has depth, frames"):
        Feed("x", Echo(("frames", "camera")), sources, {"rooms": 1, "clips": 1}, batch=1, micro_batches=1, seed=0)


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ([("ssl", 0), ("geometry", 0)], {}, "step 0: the plan .* is not every micro-batch once"),
        ([*PLAN, ("ssl", 1)], {}, "step 0: the plan .* is not every micro-batch once"),
        (PLAN, {"world": 5}, "task 'geometry': a batch of 4 cannot be split over 5 ranks"),
    ],
)
def test_impossible_plan(sources: dict[str, ShardReader], plan: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steps(Loader(make_feeds(sources), plan, stop_step=1, **options))


def test_a_feed_under_another_name(sources: dict[str, ShardReader]) -> None:
    with pytest.raises(ValueError, match="the feed of task 'a' is named 'ssl'"):
        Loader({"a": make_feeds(sources)["ssl"]}, [("a", 0)], stop_step=1)


class Heavy(nn.Module, Echo):  # type: ignore[misc]
    def __init__(self) -> None:
        nn.Module.__init__(self)
        Echo.__init__(self)
        self.head = nn.Linear(1000, 1000)
        self.vocabulary = ["a", "b"]
        self.register_forward_hook(lambda *_: None)  # as ZeRO-3 does: cannot be pickled


def test_weights_and_hooks_stay_at_home(sources: dict[str, ShardReader]) -> None:
    task = Heavy()
    feed = Feed("ssl", task, sources, {"rooms": 1, "clips": 1}, batch=2, micro_batches=1, seed=0)
    travelled = pickle.loads(pickle.dumps(feed))
    assert len(pickle.dumps(feed)) < 50_000
    assert travelled.task.vocabulary == ["a", "b"]
    assert travelled.micro_batch(0, 0).keys == feed.micro_batch(0, 0).keys
    assert sum(parameter.numel() for parameter in task.parameters()) == 1_001_000
    assert len(task._forward_hooks) == 1


def test_a_task_that_cannot_be_sent(sources: dict[str, ShardReader]) -> None:
    task = Heavy()
    task.hung_on_by_an_engine = lambda: None
    feed = Feed("ssl", task, sources, {"rooms": 1, "clips": 1}, batch=2, micro_batches=1, seed=0)
    assert len(steps(Loader({"ssl": feed}, [("ssl", 0)], stop_step=1))) == 1
    with pytest.raises(ValueError, match=r"task 'ssl' cannot be sent .* make the feeds before the engine"):
        Loader({"ssl": feed}, [("ssl", 0)], stop_step=1, workers=1)


def test_leaving_ends_the_workers(sources: dict[str, ShardReader]) -> None:
    with Loader(make_feeds(sources), PLAN, stop_step=50, workers=2) as loader:
        iterator = iter(loader)
        next(iterator)
        workers = list(loader._iterator._workers)  # type: ignore[union-attr]
        assert len(workers) == 2
        assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


JOB = """
import signal, sys, time
from pathlib import Path
import torch
from test_loader import Echo
from interlace.data_recipes import ShardReader
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.loader import Loader

if __name__ == "__main__":
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    feed = Feed("ssl", Echo(slow=0.05), {"rooms": ShardReader(sys.argv[1])}, {"rooms": 1}, 4, 1, 0)
    with Loader({"ssl": feed}, [("ssl", 0)], stop_step=400, workers=2) as loader:
        for step, micros in enumerate(loader):
            print(step, len(asked), flush=True)
"""


def running(group: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, of, state in rows if int(of) == group and not state.startswith("Z")]


@contextmanager
def job(source: ShardReader, tmp_path: Path, code: str = JOB) -> Iterator[subprocess.Popen[str]]:
    """A training process with workers, in a process group of its own, of which nothing may be left at the end."""
    script = tmp_path / "job.py"
    script.write_text(code)
    command, options = [sys.executable, str(script), str(source.folder)], {"text": True, "start_new_session": True}
    with subprocess.Popen(command, env=with_tests_on_path(), stdout=subprocess.PIPE, **options) as process:
        try:
            yield process
            end = time.monotonic() + 15
            while running(process.pid) and time.monotonic() < end:
                time.sleep(0.1)
            assert not running(process.pid)
        finally:
            if running(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def test_an_error_that_is_kept_does_not_keep_the_process(sources: dict[str, ShardReader], tmp_path: Path) -> None:
    # its traceback holds torch's iterator, so the workers are only ended when Python exits
    kept = "    sys.excepthook = lambda kind, error, trace: setattr(sys, 'kept', error)\n    with Loader"
    code = JOB.replace("Echo(slow=0.05)", "Echo(broken='rooms/000004')").replace("    with Loader", kept)
    with job(sources["rooms"], tmp_path, code) as process:
        assert process.wait(60) == 1


def test_a_signal_to_the_whole_job_is_the_trainers_and_its_death_ends_all(
    sources: dict[str, ShardReader], tmp_path: Path
) -> None:
    with job(sources["rooms"], tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["0", "0"]
        os.killpg(process.pid, signal.SIGTERM)
        after_signal = 0
        while after_signal < 8:  # more than what two workers had loaded ahead
            line = process.stdout.readline().split()
            assert len(line) == 2, "the data stopped"
            after_signal += int(line[1])
        assert len(running(process.pid)) >= 4  # trainer, fork server, two workers
        process.kill()
        process.wait()
