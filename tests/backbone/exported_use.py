"""What somebody who has torch, transformers, safetensors and Pillow does with exported folders.

Run by test_export.py in an environment of those packages alone: FOLDER PLAIN BROKEN INPUTS. Prints what it found, JSON.
"""

import json
import os
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

folder, plain, broken, inputs = sys.argv[1:]
given = load_file(inputs)
frames = given["frames"]  # uint8 [B, T, 3, H, W]
found = {"transformers": transformers.__version__, "there": [n for n in ("interlace", "torchvision") if find_spec(n)]}
apart = found["apart"] = {}


def compare(name, tensor, expected):
    apart[name] = float((tensor.double() - expected.double()).abs().max())


def told(action):
    try:
        action()
    except ValueError as error:
        return str(error)
    return None


torch.set_grad_enabled(False)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
found["training"], found["dtype"], found["hidden_size"] = model.training, str(model.dtype), model.config.hidden_size
output = model(frames, layers=[0])
compare("clip", output.last_hidden_state, given["tokens"])
compare("pooled", output.pooler_output, given["tokens"][:, :, 0])
compare("layer", output.layers[0], given["layer"])
states = model(frames, output_hidden_states=True).hidden_states
compare("first_state", states[0], given["embedded"])
compare("states", states[1][:, :, -given["layer"][0, 0, :, :, 0].numel() :], given["layer"].flatten(2, 3))
compare("last_state", model.backbone.norm(states[-1]), given["tokens"])
pair = model(frames, return_dict=False)
compare("pair", pair[1], given["tokens"][:, :, 0])
found["states"], found["pair"] = len(states), type(pair).__name__
photograph = model(frames[:, 0])
compare("photograph", photograph.last_hidden_state, given["tokens"][:, 0])

heads = model.load_heads("geometry")
shape = (len(frames), frames.shape[-2], frames.shape[-1])
streamed = {"stream": [], "depth": [], "poses": []}
with model.stream(*shape, max_frames=frames.shape[1]) as stream:
    for index in range(frames.shape[1]):
        features = stream(frames[:, index : index + 1], layers=heads.layers)
        geometry = heads(features)
        streamed["stream"].append(features.patches)
        streamed["depth"].append(geometry.depth)
        streamed["poses"].append(geometry.poses)
for name, parts in streamed.items():
    compare(name, torch.cat(parts, 1), given[name])

long = given["long"]
with model.stream(1, long.shape[-2], long.shape[-1], max_frames=long.shape[1]) as stream:
    seen = [stream(long[:, index : index + 1]) for index in range(long.shape[1])]
compare("long", torch.cat([features.patches for features in seen], 1), given["long_patches"])
compare("long_camera", torch.cat([features.camera for features in seen], 1), given["long_camera"])
found["long"] = len(seen)

processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
same = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
found["processors"] = [type(processor).__name__, type(same).__name__]
picture = Image.fromarray(given["picture"].permute(1, 2, 0).numpy())
compare("picture", processor(picture)["pixel_values"], given["picture_pixels"])
compare("videos", same(videos=frames)["pixel_values"], given["pixels"])
arrays = np.ascontiguousarray(frames.permute(0, 1, 3, 4, 2).numpy())
compare("arrays", same(videos=list(arrays), do_normalize=False)["pixel_values"], frames)
compare("smaller", processor(picture, size=16)["pixel_values"], given["small_pixels"])
exact = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, size={"height": 32, "width": 64})
found["sizes"] = [list(exact(picture)["pixel_values"].shape), list(same(videos=[picture] * 3)["pixel_values"].shape)]

# What is saved again needs nothing of the folder it came from.
again, moved = inputs + ".again", inputs + ".moved"
shutil.rmtree(again, ignore_errors=True)
shutil.copytree(folder, moved)
gone = AutoModel.from_pretrained(moved, trust_remote_code=True)
gone.save_pretrained(again)
AutoImageProcessor.from_pretrained(moved, trust_remote_code=True).save_pretrained(again)
shutil.rmtree(moved)
whole = AutoModel.from_pretrained(again, trust_remote_code=True)
compare("again", whole(frames).pooler_output, output.pooler_output)
compare("again_depth", whole.load_heads("geometry")(whole(frames, layers=heads.layers)).depth, given["depth"])
same = AutoImageProcessor.from_pretrained(again, trust_remote_code=True)
compare("again_picture", same(picture)["pixel_values"], given["picture_pixels"])
os.remove(again + "/heads/geometry.json")

image_model = AutoModel.from_pretrained(plain)
found["plain"] = type(image_model).__module__
pixels = AutoImageProcessor.from_pretrained(plain, trust_remote_code=True)(images=frames[:, 0])["pixel_values"]
compare("plain", image_model(pixels).pooler_output, given["plain"])

found["told"] = {
    "weights": told(lambda: AutoModel.from_pretrained(broken, trust_remote_code=True)),
    "heads": told(lambda: model.load_heads("captioning")),
    "lost": told(lambda: AutoModel.from_pretrained(again, trust_remote_code=True).load_heads("geometry")),
    "promised": told(lambda: whole.save_pretrained(moved)),
    "gone": told(lambda: gone.save_pretrained(moved)),
    "pushed": told(lambda: model.save_pretrained(moved, push_to_hub=True)),
    "attentions": told(lambda: model(frames, output_attentions=True)),
    "mean": told(lambda: AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, image_mean=[0.5] * 3)),
    "dtype": told(lambda: model(frames.long())),
    "sizes": told(lambda: processor([picture, picture.resize((200, 50))])),
    "nothing": told(lambda: processor()),
    "channels": told(lambda: processor(np.zeros((3, 32, 32), np.uint8))),
}
found["saved"] = os.path.exists(moved)
print(json.dumps(found))
