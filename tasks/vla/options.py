"""What a recipe may say about a vision-language-action model."""

from __future__ import annotations

from pydantic import Field, model_validator

from interlace.data_recipes.action_scale import ActionScale

from ..vlm.language_task import LanguageOptions

#: Where an instruction goes in a prompt.
BLANK = "{instruction}"


class VlaOptions(LanguageOptions):
    """Options of :class:`~interlace.tasks.vla.Vla`. All of it is part of the policy: control reads the same.

    Table 13 and appendix C.4 are OmniStream's; what they leave open is VLM4VLA's, whose pipeline the paper adopts.
    """

    size: int = Field(default=224, ge=1)  # pixels a side; table 13, "Input Resolution"
    pool: int = Field(default=1, ge=1)  # patches a side that are averaged into one token
    #: what becomes -1 and 1 along each of the arm's axes, the gripper not among them; CALVIN: -0.65 and 0.65
    low: tuple[float, ...] = Field(min_length=1)
    high: tuple[float, ...] = Field(min_length=1)
    chunk: int = Field(default=10, ge=1)  # actions that one look predicts; VLM4VLA: 10 on CALVIN, 4 on Bridge
    execute: int = Field(default=1, ge=1)  # of these, actions that are run before the next look
    #: frames that a look reaches back to: 1 sees its image alone (the paper's recipe), more a stream with this window
    context: int = Field(default=1, ge=1)
    longest: int = Field(default=128, ge=1)  # steps of an episode that a stream is trained on, from its first
    looks: int = Field(default=1, ge=1)  # steps of one episode that are learned from in a draw, at most
    prompt: str = f"What action should the robotic arm take to {BLANK}?"  # VLM4VLA
    #: each channel of the patches has mean 0 and deviation 1 over the first training samples: a projector that begins
    #: at random learns much sooner. With ``start_from`` it gives a VLM's projector what that never saw
    standardise: bool = False
    #: the image between the prompt and the query, and not before the prompt as VLM4VLA has it: each of its tokens then
    #: knows what is asked; meant for a small language model that begins at random
    image_last: bool = False
    head_size: int = Field(default=1024, ge=4)  # width of the action head; VLM4VLA
    huber_delta: float = Field(default=1.0, gt=0)  # VLM4VLA
    gripper_weight: float = Field(default=0.01, ge=0)  # of its cross-entropy beside the arm's Huber loss; VLM4VLA

    @model_validator(mode="after")
    def _fits(self) -> VlaOptions:
        if self.execute > self.chunk:
            raise ValueError(f"execute {self.execute}: must not be more than chunk {self.chunk}")
        if self.remember and self.context > 1:
            raise ValueError(f"remember {self.remember}: features of a stream (context {self.context}) are not kept")
        if BLANK not in self.prompt:
            raise ValueError(f"prompt {self.prompt!r}: must say where the instruction goes: {BLANK}")
        self.scale  # noqa: B018 -- raises where low and high are no range
        return self

    @property
    def scale(self) -> ActionScale:
        """How actions become -1...1 and come back."""
        return ActionScale("stated", self.low, self.high)
