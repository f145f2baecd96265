"""Policies in control: who knows succeeds, who does not fails, and both are counted, paired and seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from interlace.backbone import save
from interlace.backbone.digest import digest
from interlace.backbone.frozen import write_reference
from interlace.data_recipes.video import Video
from interlace.data_recipes.worlds.table import HORIZON, INSTRUCTIONS, REACH, Table, draw_layout
from interlace.data_recipes.worlds.table_episodes import HELD_OUT_EPISODES
from interlace.eval import policy_table
from interlace.eval.policy import (
    SIDE,
    Attempt,
    Films,
    Order,
    Step,
    Who,
    another,
    as_it_is,
    attempt,
    attempts,
    chains,
    differences,
    picture,
    success,
    told_as,
)
from interlace.eval.policy_table import TEXTS, Expert, Replay, Rival, TableChains, TableEpisodes, compare
from interlace.eval.result import Result, read
from interlace.launchers.policy_pictures import overview
from interlace.tasks.lettering import LINE, MARGIN

sys.path[:0] = [str(Path(__file__).parents[1] / "tasks")]

from language import write_tokenizer  # noqa: E402
from tiny_vla import build  # noqa: E402

WHO = Who("somebody", "-")


class Counting:
    """A world in which an order is carried out by ``n`` actions of 1, n being its name; an action of -1 ruins it."""

    name, fps, horizon = "counting", 4.0, 5

    def __init__(self, *episodes: str) -> None:
        self.episodes = episodes
        self.groups = {"odd": frozenset({"1", "3"})}
        self.settings = {"horizon": self.horizon}

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        return self.frame(number), [Order(name, f"count to {name}") for name in self.episodes[number]]

    def begin(self, order: Order) -> None:
        self.left = int(order.name)

    def act(self, action: np.ndarray) -> Step:
        self.left -= int(action[0] > 0)
        return Step(self.frame(self.left), self.left == 0, bool(action[0] < 0))

    @staticmethod
    def frame(value: int) -> np.ndarray:
        return np.full((6, 7, 3), value, np.uint8)


class Does:
    """Does the same whatever it is told, and remembers what it was told and shown."""

    def __init__(self, action: float) -> None:
        self.action = np.array([action])
        self.told: list[str] = []
        self.seen: list[int] = []

    def begin(self, instruction: str) -> None:
        self.told.append(instruction)

    def act(self, frame: np.ndarray) -> np.ndarray:
        self.seen.append(int(frame[0, 0, 0]))
        return self.action


def by_measure(results: Sequence[Result]) -> dict[str, Result]:
    return {each.measure: each for each in results}


def test_an_episode_goes_on_until_an_order_is_not_carried_out() -> None:
    actor = Does(1)
    whole = attempt(Counting("321"), actor, 0)
    assert whole.succeeded
    assert (whole.done, len(whole.frames)) == (3, 1 + 6)
    assert actor.told == ["count to 3", "count to 2", "count to 1"]
    assert actor.seen == [0, 2, 1, 0, 1, 0]  # the picture before each action
    late = attempt(Counting("262"), Does(1), 0)
    assert not late.succeeded
    assert (late.done, len(late.frames)) == (1, 1 + 2 + Counting.horizon)
    ruined = attempt(Counting("22"), Does(-1), 0)
    assert (ruined.done, len(ruined.frames)) == (0, 2)


def test_chains_are_counted_as_calvin_does() -> None:
    world = Counting("11", "16", "61", "11")
    found = by_measure(chains(world, attempts(world, Does(1), range(4)), WHO))
    assert {name: each.value for name, each in found.items()} == {"length": 1.25, "1 in a row": 0.75, "2 in a row": 0.5}
    assert found["length"].facts.unit == "chain"
    assert found["length"].n == 4


def test_success_is_by_order_and_by_group() -> None:
    world = Counting("1", "2", "3", "6", "1")
    found = by_measure(success(world, attempts(world, Does(1), range(5)), WHO))
    assert {name: (each.value, each.n) for name, each in found.items()} == {
        "all": (0.8, 5),
        "odd": (1.0, 3),
        "1": (1.0, 2),
        "2": (1.0, 1),
        "3": (1.0, 1),
        "6": (0.0, 1),
    }
    low, high = found["all"].interval
    assert low < 0.8 < high
    with pytest.raises(ValueError, match="nothing could be measured"):
        success(world, [], WHO)


def tries(world: Counting, done: Sequence[int]) -> list[Attempt]:
    starts = [world.start(number) for number in range(len(done))]
    return [
        Attempt(number, tuple(orders), marks, frame[None])
        for number, ((frame, orders), marks) in enumerate(zip(starts, done, strict=True))
    ]


def test_differences_are_paired_by_episode() -> None:
    """Whoever does what another does, and one thing more in ten, is better for sure, however episodes differ."""
    world = Counting(*"1212121212" * 4)
    other = [1, 0, 0, 1, 0, 1, 1, 0, 0, 1] * 4
    more = [1, 0, 0, 1, 0, 1, 1, 0, 1, 1] * 4
    found = by_measure(differences(world, tries(world, more), {"it": tries(world, other)}, WHO))
    assert list(found) == ["all, above it", "odd, above it"]
    gain = found["all, above it"]
    assert gain.value == pytest.approx(0.1)
    assert 0 < gain.interval[0] < gain.interval[1] < 0.25
    assert found["odd, above it"].value == pytest.approx(0.2)
    unpaired = success(world, tries(world, more), WHO)[0].interval
    assert gain.interval[1] - gain.interval[0] < 0.7 * (unpaired[1] - unpaired[0])
    chain = Counting("11", "12")
    (length,) = differences(chain, tries(chain, [2, 1]), {"it": tries(chain, [0, 1])}, WHO)
    assert (length.measure, length.value, length.facts.unit) == ("length, above it", 1.0, "chain")
    with pytest.raises(ValueError, match="it: did not try the same episodes as somebody"):
        differences(world, tries(world, more), {"it": tries(world, other)[1:]}, WHO)


def test_other_instructions_are_never_the_own_and_any_of_the_others() -> None:
    told, order = another(TEXTS, seed=0), Order("left_red", INSTRUCTIONS["left_red"].text)
    drawn = [told(number, 0, order) for number in range(300)]
    assert set(drawn) == set(TEXTS) - {order.text}
    assert drawn == [another(TEXTS, seed=0)(number, 0, order) for number in range(300)]
    assert drawn != [told(number, 1, order) for number in range(300)] != [as_it_is(0, 0, order)] * 300
    actor = Does(1)
    attempt(Counting("1"), actor, 0, another(["count to 1", "count to 9"], 0))
    assert actor.told == ["count to 9"]


def test_successes_and_failures_are_filmed(tmp_path: Path) -> None:
    world, films = Counting("1", "2", "6", "1", "61"), Films(tmp_path / "videos", 4.0, most=2)
    kept = attempts(world, Does(1), range(5), films=films)
    names = ["done_1_0.mp4", "done_2_1.mp4", "failed_6_2.mp4", "failed_6_4.mp4"]
    assert [file.name for file in films.written] == names
    lengths = [len(Video(file, file.name).times) for file in films.written]
    assert lengths == [2, 3, 6, 6]
    assert all(len(each.frames) == 1 for each in kept)


def test_films_are_large_and_tell_what_was_to_do_and_whether_it_was_done(tmp_path: Path) -> None:
    films = Films(tmp_path, 4.0)
    attempts(Counting("1", "6", "16"), Does(1), range(3), films=films)
    done, failed, both = (Video(file, file.name).read() for file in films.written)
    factor = -(-SIDE // 7)
    assert done.shape == (2, 6 * factor + LINE + 2 * MARGIN, 7 * factor // 2 * 2, 3)  # sides of a video are even
    assert both.shape[1] == done.shape[1] + LINE
    below = [film[-1, 6 * factor + MARGIN :].astype(int) for film in (done, failed, both)]
    blue, orange = ([(words[..., one] - words[..., 2 - one]).max() > 60 for words in below] for one in (2, 0))
    assert (blue, orange) == ([True, False, True], [False, True, True])


def test_films_are_of_this_measurement_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, folder = Counting("1", "2", "6", "1", "61"), tmp_path / "videos"
    attempts(world, Does(1), range(5), films=Films(folder, 4.0))
    for name in (".failed_6_2.mp4.partial", "mine.mp4", "done_1.txt"):
        (folder / name).touch()
    films = Films(folder, 4.0)
    assert sorted(file.name for file in folder.iterdir()) == ["done_1.txt", "mine.mp4"]
    attempts(world, Does(1), range(1), films=films)
    before = films.written[0].read_bytes()

    def stop(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("av.VideoFrame", SimpleNamespace(from_ndarray=stop))
    with pytest.raises(KeyboardInterrupt):
        films.keep(attempt(world, Does(1), 0))
    assert films.written[0].read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        films.keep(attempt(world, Does(1), 1))
    assert [file.name for file in folder.glob("done_*.mp4")] == ["done_1_0.mp4"]


def test_pictures_and_actions_of_another_kind_are_refused() -> None:
    assert told_as(np.array([1, 2], np.float32), 2, "x").dtype == np.float64
    for action in ([1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="x: an action is 2 finite numbers"):
            told_as(np.array(action), 2, "x")
    for seen in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="x: its camera gives"):
            picture(seen, "x")


def test_the_overview_draws_what_was_found() -> None:
    world, chain, other = Counting("1", "2", "6"), Counting("11", "16"), Who("other", "-")
    mine, theirs = tries(world, [1, 1, 0]), tries(world, [0, 1, 0])
    results = [*success(world, mine, WHO), *success(world, theirs, other)]
    results += differences(world, mine, {"other": theirs}, WHO)
    results += [*chains(chain, tries(chain, [2, 1]), WHO), *chains(chain, tries(chain, [0, 0]), other)]
    left, middle, right = overview(results).figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["all", "odd", "1", "2", "6"]
    dots = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    assert np.allclose(dots, [2 / 3, 1, 1, 1, 0, 1 / 3, 0, 0, 1, 0])
    curves = [list(line.get_ydata()) for line in middle.lines if line.get_marker() == "o"]
    assert curves == [[1.0, 0.5], [0.0, 0.0]]
    assert middle.get_legend_handles_labels()[1] == ["somebody: 1.50", "other: 0.00"]
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["all, above other", "odd, above other"]
    assert len(overview(chains(chain, tries(chain, [2, 1]), WHO)).figure.axes) == 1


# ---- the robot table


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


class Idle:
    def begin(self, instruction: str) -> None: ...

    def act(self, frame: np.ndarray) -> np.ndarray:
        return np.array([0.0, 0.0, 0.0, 1.0])


def world_of(table: Table, kind: type[TableEpisodes] = TableEpisodes, every: int = 1) -> TableEpisodes:
    shades = iter(range(10**6))
    return kind(table, lambda: np.full((8, 8, 3), next(shades) % 200, np.uint8), 0, every=every)


def test_the_expert_succeeds_and_who_is_told_another_fails(table: Table) -> None:
    sides = [
        Rival(WHO, Expert(table), 0),
        Rival(Who("misled", "-"), Expert(table), 0, told=another(TEXTS, 0)),
    ]
    results, tried = compare(
        lambda every: TableEpisodes(table, lambda: np.zeros((8, 8, 3), np.uint8), 0, every=every), sides, 12
    )
    found = by_measure([each for each in results if each.facts.subject == "somebody"])
    assert {"all", "blocks", *INSTRUCTIONS} < set(found)
    assert found["all"].value == found["blocks"].value == 1
    assert (found["all"].n, found["blocks"].n, found["lift_red"].n) == (12, 9, 1)
    misled = sum(each.done for each in tried["misled"])
    assert misled <= 1
    assert found["all, above misled"].value == pytest.approx(1 - misled / 12)
    assert found["all, above misled"].facts.data_hash == found["all"].facts.data_hash


def test_an_instruction_has_its_time(table: Table) -> None:
    idle = attempt(world_of(table), Idle(), 0)
    assert not idle.succeeded
    assert len(idle.frames) == HORIZON + 1
    assert len({int(frame[0, 0, 0]) for frame in idle.frames}) == HORIZON + 1
    unseen = attempt(world_of(table, every=0), Idle(), 0)
    assert len({int(frame[0, 0, 0]) for frame in unseen.frames}) == 1  # drawn once for whom does not look


def test_a_picture_that_nobody_looks_at_is_not_drawn(table: Table) -> None:
    """Who looks at every third picture of each order sees what would have been drawn, and so does the film's end."""

    class Peeping(Expert):
        def begin(self, instruction: str) -> None:
            super().begin(instruction)
            self.step = 0

        def act(self, frame: np.ndarray) -> np.ndarray:
            if self.step % 3 == 0:
                looked[-1].append(tuple(frame[0, 0]))
            self.step += 1
            return super().act(frame)

    def draw() -> np.ndarray:
        drawn.append(1)
        return np.full((8, 8, 3), np.round(table.state().hand * 255), np.int64).astype(np.uint8)

    looked: list[list[tuple[int, ...]]] = []
    tried, counts = [], []
    for every in (1, 3):
        drawn: list[int] = []
        looked.append([])
        tried.append(attempt(TableChains(table, draw, 0, every=every), Peeping(table), 0))
        counts.append(len(drawn))
    assert looked[0] == looked[1]
    assert len(looked[0]) > 20
    assert counts[0] == len(tried[0].frames)
    assert counts[1] <= counts[0] / 3 + 2 * 5
    assert np.array_equal(tried[0].frames[-1], tried[1].frames[-1])


def test_films_show_every_action(table: Table, tmp_path: Path) -> None:
    """Of an actor that looks at every tenth picture too; whom nobody films is drawn no oftener than it looks."""

    class Kept(Films):
        def keep(self, tried: Attempt) -> None:
            shown.append(len({int(frame[0, 0, 0]) for frame in tried.frames}) == len(tried.frames) > 10)

    shown, made = list[bool](), list[int]()

    def make(every: int) -> TableEpisodes:
        made.append(every)
        return world_of(table, every=every)

    sides = [Rival(WHO, Expert(table), 10), Rival(Who("another", "-"), Expert(table), 10)]
    compare(make, sides, 2, films=Kept(tmp_path, 4.0))
    assert shown == [True, True]
    assert made == [1, 10]


def test_layouts_are_held_out(table: Table) -> None:
    _, (order,) = world_of(table).start(5)
    assert order.name == list(INSTRUCTIONS)[5]
    assert table.layout == draw_layout(0, HELD_OUT_EPISODES + 5, INSTRUCTIONS[order.name])


def test_a_chain_stops_where_it_fails(table: Table) -> None:
    """An expert that is deaf to the third instruction."""

    class Deaf(Expert):
        count = 0

        def begin(self, instruction: str) -> None:
            self.count += 1
            super().begin(instruction)

        def act(self, frame: np.ndarray) -> np.ndarray:
            return np.zeros(4) if self.count == 3 else super().act(frame)

    world = world_of(table, TableChains, every=0)
    assert attempt(world, Expert(table), 0).done == 5
    assert attempt(world, Deaf(table), 0).done == 2


def test_the_replay_is_blind(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step the mean of what experts did on training layouts; then the last of it again and again."""
    told, actions = INSTRUCTIONS["lift_red"].text, np.array([[0.1, 0.2, 0.3, 1.0], [0.4, 0.5, 0.6, 0.2]])
    replay = Replay({told: actions})
    for _ in range(2):
        replay.begin(told)
        done = [replay.act(np.zeros((8, 8, 3), np.uint8)) for _ in range(3)]
        assert np.array_equal(done, [*actions, actions[-1]])
    monkeypatch.setattr(policy_table, "REPLAYED", 1)
    made = Replay.of(table, policy_table.TableSettings(noise=0.0))
    table.reset(draw_layout(0, 0, INSTRUCTIONS["lift_red"]))
    table.begin(INSTRUCTIONS["lift_red"])
    made.begin(told)
    steps = [table.act(made.act(np.zeros((8, 8, 3), np.uint8)))[1].done for _ in range(HORIZON)]
    assert steps.index(True) > 5  # on the one layout that it has seen, it succeeds


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "told"), [(3, "of 1 episodes done"), (2, "robot table: its actions are scaled")])
def test_the_command(tmp_path: Path, axes: int, told: str) -> None:
    """In a process of its own, where what draws is still to be chosen: here rays, as where there is no OpenGL."""
    task, backbone = build(write_tokenizer(tmp_path), low=REACH[0][:axes], high=REACH[1][:axes])
    run = tmp_path / "run"
    (run / "heads").mkdir(parents=True)
    save(backbone, tmp_path / "backbone")
    write_reference(run / "backbone.json", str(tmp_path / "backbone"), backbone.config, digest(backbone))
    (run / "heads" / "vla.json").write_text(task.options.model_dump_json())
    save_file({key: value.clone() for key, value in task.state_dict().items()}, run / "heads" / "vla.safetensors")
    given = ["eval", "policy", str(run), "--episodes", "1", "--chains", "1", "--size", "32"]
    done = subprocess.run(
        [sys.executable, "-m", "interlace.launchers", *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MUJOCO_GL": "disable"},
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert told in said
    assert (done.returncode == 0) == (axes == 3)
    if axes == 3:
        assert "robot table: no OpenGL here" in said
        assert "of 5 instructions in a row over 1 chains" in said
        found = read(run / "results" / "policy.json")
        subjects = ["run", "scripted expert", "blind replay", "run, told another"]
        assert list(dict.fromkeys(each.facts.subject for each in found)) == subjects
        assert {each.measure for each in found if "above" not in each.measure} == {
            *("all", "blocks", "lift_red", "length"),
            *(f"{count} in a row" for count in range(1, 6)),
        }
        assert {"all, above scripted expert", "length, above told another"} < {each.measure for each in found}
        assert len(list((run / "results" / "policy.videos").glob("*.mp4"))) == 1
