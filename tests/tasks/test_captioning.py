from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language import BACKBONE, SHAPE, build, options, sample, text, write_tokenizer
from transformers import Qwen2Config, Qwen3ForCausalLM

from interlace.backbone import normalise
from interlace.tasks.captioning import Captioning, DecoderShape
from interlace.tasks.captioning.decoder import answer_loss, batch_rows, build_decoder, greedy
from interlace.tasks.captioning.texts import Row
from interlace.tasks.captioning.tokenizer import read_tokenizer
from interlace.tasks.frames import resize
from interlace.tasks.interface import Progress, TaskContext

PROGRESS = Progress(step=0, steps=1, seed=0)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def samples() -> list[Any]:
    return [
        sample(0, [text("caption", "Describe the image.", "a red mug left of a blue mug")]),
        sample(1, [text("ocr", "Read the sign.", "7"), text("grounding", "Where is it?", "", 0, [[0, 0.2, 0.5, 0.9]])]),
        sample(2, [text("caption", "Describe the image.", ""), text("ocr", "Read the sign.", "box")]),
    ]


def batch_of(task: Captioning, chosen: list[Any]) -> dict[str, Any]:
    return task.collate([task.item(one, np.random.default_rng(i)) for i, one in enumerate(chosen)])


def test_loss_is_transformers_own(model_file: Path) -> None:
    """Value and gradient against one forward of the whole model a text, with its labels."""
    task, backbone = build(model_file, texts=2, frames=2)
    task, backbone = task.double(), backbone.double()
    batch = batch_of(task, samples())
    term = task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"]
    parameters = [*backbone.parameters(), *task.parameters()]
    got = torch.autograd.grad(term.sum, parameters, allow_unused=True)

    naive, count = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(samples())):
        features = backbone(normalise(batch["frames"][i : i + 1]), noise=_noise_of(batch["noise"], i))
        visual = task.projector(features.patches.reshape(1, -1, BACKBONE.hidden_size))
        assert visual.shape[1] == 2 * 2 * 2
        for tokens, answer in zip(batch["tokens"][i], batch["answer"][i], strict=True):
            if not answer.any():
                continue
            tokens = tokens[: int(answer.nonzero().max()) + 1]
            labels = torch.where(answer[: len(tokens)], tokens, -100)
            labels = torch.cat((labels.new_full((visual.shape[1],), -100), labels))[None]
            inputs = torch.cat((visual, task.decoder.model.embed_tokens(tokens)[None]), dim=1)
            output = task.decoder(inputs_embeds=inputs, labels=labels)
            logs = output.logits.log_softmax(-1)[0, :-1]
            wanted = labels[0, 1:]
            loss = -logs[wanted >= 0].gather(1, wanted[wanted >= 0][:, None]).sum()
            assert loss.item() / int(answer.sum()) == pytest.approx(output.loss.item(), rel=1e-5)
            naive, count = naive + loss, count + int(answer.sum())
    assert float(term.count) == count > 20
    assert term.sum.item() == pytest.approx(naive.item(), rel=1e-6)
    for one, other in zip(got, torch.autograd.grad(naive, parameters, allow_unused=True), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max() + 1))


def _noise_of(noise: Any, index: int) -> Any:
    return type(noise)(noise.rope_scale[index : index + 1], noise.keep[index : index + 1])


def test_gradient_reaches_the_backbone(model_file: Path) -> None:
    task, backbone = build(model_file)
    term = task.losses(backbone, batch_of(task, samples()), teacher=None, progress=PROGRESS)["tokens"]
    (term.sum / term.count).backward()
    for name, parameter in backbone.named_parameters():
        # CLS, camera and registers of the last block feed nothing here, but reach the patches in earlier ones.
        if "mask_token" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
    assert float(backbone.embedding.patch.weight.grad.abs().max()) > 1e-4


def test_a_sample_does_not_feel_its_neighbours(model_file: Path) -> None:
    task, _ = build(model_file)
    tokens = [[1, 5, 9, 2], [1, 7], [1, 5, 30, 31, 32, 33, 34, 35, 36, 2]]
    rows = [Row(row[:2], row[2:]) for row in tokens]
    visual = torch.randn(3, 4, 32)
    together, owner = answer_loss(task.decoder, visual, *batch_rows(rows, task.tokenizer.pad))
    assert owner.tolist() == [0] * 2 + [2] * 8
    for i in (0, 2):
        alone, _ = answer_loss(task.decoder, visual[i : i + 1], *batch_rows([rows[i]], task.tokenizer.pad))
        torch.testing.assert_close(together[owner == i], alone, rtol=1e-4, atol=1e-5)
    noisy, _ = batch_rows(rows, pad=40)
    torch.testing.assert_close(answer_loss(task.decoder, visual, noisy, batch_rows(rows, 3)[1])[0], together)


@pytest.mark.parametrize("case", ["no samples", "no texts", "an empty answer"])
def test_an_empty_caption_costs_nothing(model_file: Path, case: str) -> None:
    task, backbone = build(model_file, texts=2)
    texts = [text("caption", "Describe the image.", "")] if case == "an empty answer" else []
    batch = batch_of(task, [] if case == "no samples" else [sample(0, texts), sample(1, texts)])
    term = task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"]
    assert (term.sum.item(), term.count.item()) == (0, 0)
    term.sum.backward()
    # Zeros, not None: a rank without answers still runs what the others run.
    assert float(backbone.embedding.patch.weight.grad.abs().max()) == 0
    assert float(task.decoder.lm_head.weight.grad.abs().max()) == 0
    mixed = batch_of(task, [sample(0, texts), samples()[0]])
    alone = batch_of(task, [samples()[0]])
    mixed["noise"] = alone["noise"] = None
    both, one = (task.losses(backbone, part, teacher=None, progress=PROGRESS)["tokens"] for part in (mixed, alone))
    assert float(both.count) == float(one.count) > 0
    assert both.sum.item() == pytest.approx(one.sum.item(), rel=1e-5)


def test_autocast_keeps_the_loss_in_float32(model_file: Path) -> None:
    task, backbone = build(model_file)
    batch = batch_of(task, samples())
    exact = task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"]
    with torch.autocast("cpu", torch.bfloat16):
        half = task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"]
    assert half.sum.dtype == torch.float32
    assert half.sum.item() == pytest.approx(exact.sum.item(), rel=0.05)
    rows = batch_rows([Row([1, 5], [9, 7, 2])], pad=3)
    halved, _ = answer_loss(task.decoder.bfloat16(), torch.randn(1, 4, 32).bfloat16(), *rows)
    assert halved.dtype == torch.float32


def test_items_and_batches(model_file: Path) -> None:
    task, _ = build(model_file, texts=2, frames=3)
    clip = sample(5, [text("caption", "Describe the image.", "a mug", frame=1)], length=4)
    item = task.item(clip, np.random.default_rng(0))
    assert np.array_equal(item["frames"], resize(clip.frames[[0, 0, 1]], (16, 16)))
    batch = batch_of(task, [clip, *samples()])
    assert batch["frames"].shape == (4, 3, 3, 16, 16)
    assert batch["frames"].dtype == torch.uint8
    assert batch["tokens"].shape == batch["answer"].shape
    assert batch["tokens"].shape[:2] == (4, 2)
    again = batch_of(task, [clip, *samples()])
    assert all(torch.equal(batch[key], again[key]) for key in ("frames", "tokens", "answer"))
    assert torch.equal(batch["noise"].rope_scale, again["noise"].rope_scale)


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_is_tied_or_not(model_file: Path, tied: bool) -> None:
    task, backbone = build(model_file, decoder={**SHAPE, "tie_embeddings": tied})
    assert (task.decoder.lm_head.weight is task.decoder.model.embed_tokens.weight) == tied
    term = task.losses(backbone, batch_of(task, samples()), teacher=None, progress=PROGRESS)["tokens"]
    term.sum.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_greedy_is_transformers_generate(model_file: Path) -> None:
    """Against ``generate`` on left-padded prompts: another padding, another cache, the same answers."""
    task, _ = build(model_file)
    torch.manual_seed(1)
    visual = torch.randn(5, 4, 32)
    prompts = [[1, 8, 9], [1], [1, 8, 9, 10, 11, 12], [1, 20], [1, 21, 22, 23]]
    with torch.no_grad():
        free = greedy(task.decoder, visual, prompts, eos=-1, pad=3, limit=12)
        eos = free[0][4]  # so that rows end at different steps
        got = greedy(task.decoder, visual, prompts, eos=eos, pad=3, limit=12)
        embed = task.decoder.model.embed_tokens
        longest = max(map(len, prompts))
        inputs, masks = [], []
        for row, prompt in zip(visual, prompts, strict=True):
            gap = longest - len(prompt)
            inputs.append(torch.cat((torch.zeros(gap, 32), row, embed(torch.tensor(prompt)))))
            masks.append(torch.tensor([0] * gap + [1] * (4 + len(prompt))))
        wanted = task.decoder.generate(
            inputs_embeds=torch.stack(inputs),
            attention_mask=torch.stack(masks),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=eos,
            pad_token_id=eos,
        ).tolist()
    assert got == [row[: row.index(eos)] if eos in row else row for row in wanted]
    assert len(got[0]) <= 4 < max(map(len, got))
    assert len({tuple(row) for row in got}) > 3
    for i in range(5):
        with torch.no_grad():
            assert greedy(task.decoder, visual[i : i + 1], [prompts[i]], eos=eos, pad=3, limit=12) == [got[i]]


def test_qwen3_0_6b_has_its_size(model_file: Path) -> None:
    shape = DecoderShape(
        layers=28,
        hidden_size=1024,
        heads=16,
        key_value_heads=8,
        head_size=128,
        mlp_size=3072,
        vocabulary_size=151_936,
    )
    with torch.device("meta"):
        decoder: Any = build_decoder(shape, read_tokenizer(str(model_file)))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 596_049_920


def test_decoder_from_a_folder(model_file: Path, tmp_path: Path) -> None:
    task, _ = build(model_file)
    folder = tmp_path / "decoder"
    task.decoder.to(torch.bfloat16).save_pretrained(folder)
    chosen = options(model_file, decoder=str(folder))
    assert Captioning.check(chosen, BACKBONE) == []
    read = Captioning(chosen, TaskContext(BACKBONE, seed=0)).decoder
    assert isinstance(read, Qwen3ForCausalLM)
    for name, parameter in read.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter.bfloat16(), dict(task.decoder.named_parameters())[name])


def test_unfit_decoders_are_refused(model_file: Path, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(str(model_file))
    Qwen2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a qwen2 model; captioning takes qwen3"):
        build_decoder(str(tmp_path), tokenizer)
    with pytest.raises(ValueError, match="vocabulary of 50 is smaller"):
        build_decoder(DecoderShape(layers=1, hidden_size=32, heads=2, mlp_size=32, vocabulary_size=50), tokenizer)


def test_check_names_what_is_missing(model_file: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    wrong = Captioning.check(options(model_file, size=20, decoder=absent, tokenizer=absent), BACKBONE)
    assert [key for key, _ in wrong] == ["size", "decoder", "tokenizer"]
    assert wrong[0][1] == "allowed is a multiple of backbone.patch_size = 8"
    assert "no config.json" in wrong[1][1]
    (tmp_path / "config.json").write_text("{}")
    assert "there are no weights" in Captioning.check(options(model_file, decoder=str(tmp_path)), BACKBONE)[0][1]
    assert Captioning.check(options(model_file), BACKBONE) == []
    assert Captioning.tokens_per_sample(options(model_file, frames=3), BACKBONE) == 3 * (1 + 1 + 1 + 4)


def test_the_image_matters(model_file: Path) -> None:
    task, backbone = build(model_file)
    batch = batch_of(task, samples())
    before = task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"].sum
    batch["frames"] = 255 - batch["frames"]
    assert abs(float(task.losses(backbone, batch, teacher=None, progress=PROGRESS)["tokens"].sum - before)) > 1e-2
