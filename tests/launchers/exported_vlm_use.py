"""What somebody who has torch, transformers, safetensors and Pillow does with exported vision-language models.

Run by test_export_vlm.py in an environment of those packages alone: INPUTS FOLDER... Prints what it found, JSON.
"""

import json
import sys
from importlib.util import find_spec

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

inputs, *folders = sys.argv[1:]
given = load_file(inputs)
question = "what colour is the box?"
absent = ("interlace", "torchvision", "sentencepiece", "av")
found = {"transformers": transformers.__version__, "there": [name for name in absent if find_spec(name)]}


def told(action):
    try:
        action()
    except ValueError as error:
        return str(error)
    return None


torch.set_grad_enabled(False)
picture = Image.fromarray(given["picture"].numpy())
frames, times = given["frames"].numpy(), given["times"].numpy()
for folder in folders:
    name = folder.rpartition("/")[2]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    asked = {
        "image": processor(question, images=picture),
        "video": processor(question, videos=frames, times=times),
        "words": processor(question),
    }
    own = found[name] = {"class": type(model).__name__, "dtype": str(model.dtype), "training": model.training}
    own["ready"] = type(processor).__name__
    for kind, ready in asked.items():
        out = model.generate(**ready)
        logits = model(**ready).logits[0, -1]
        own[kind] = {"tokens": out[0].tolist(), "answer": processor.answers(out)[0]}
        own[kind]["apart"] = float((logits.double() - given[f"{name}.{kind}"].double()).abs().max())
    both = processor([question, question], videos=[frames, None], times=[times, None])
    own["together"] = processor.answers(model.generate(**both))
    alone = processor([question], images=[picture])
    own["listed"] = processor.answers(model.generate(**alone))
    turns = [("how many?", "three"), (question, None)]
    own["turns"] = processor(turns, images=picture)["input_ids"].tolist()[0]
    own["short"] = len(model.generate(**asked["image"], max_new_tokens=2)[0])
    model.save_pretrained(inputs + name)
    again = AutoModel.from_pretrained(inputs + name, trust_remote_code=True)
    own["again"] = torch.equal(again(**asked["image"]).logits, model(**asked["image"]).logits)

words = {name: asked["image"][name] for name in ("input_ids", "attention_mask")}
found["told"] = {
    "places": told(lambda: model(**words)),
    "long": told(lambda: processor(question, videos=frames)),
    "times": told(lambda: processor(question, videos=frames, times=[0.0])),
    "both": told(lambda: processor(question, videos=frames, images=picture)),
    "pixels": told(lambda: processor(question, images=frames)),
    "text": told(lambda: processor([("a question", "an answer")])),
    "counts": told(lambda: processor([question, question], images=[picture])),
}
print(json.dumps(found))
