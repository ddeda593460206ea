"""What images show. python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

here = Path(__file__).parent
model = json.loads((here / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] == "choices"]
side, cut, filter = (model["image"][name] for name in ("side", "cut", "filter"))
run = {f: onnxruntime.InferenceSession(here / f) for f in [c["file"] for c in controls]}
encoder = onnxruntime.InferenceSession(here / model["image"]["encoder"])

for path in sys.argv[1:]:
    file = Image.open(path)
    file.draft("RGB", (512, 512))  # large JPEGs are read smaller, which is quicker
    image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    size = [int(side * edge / min(image.size)) for edge in image.size] if cut else [side, side]
    how = Image.Resampling[filter.upper()]
    square = image.resize(size, how, reducing_gap=model["image"]["gap"])
    left, top = (round((edge - side) / 2) for edge in size)
    pixels = np.asarray(square.crop((left, top, left + side, top + side)), np.float32) / 255
    embedding = encoder.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0]
    found: dict[str, object] = {"image": path}
    for control in controls:
        confidence = run[control["file"]].run(None, {"embedding": embedding})[0][0]
        order = np.argsort(-confidence, kind="stable")
        found[control["name"]] = {control["labels"][i]: float(confidence[i]) for i in order}
    print(json.dumps(found, ensure_ascii=False))
