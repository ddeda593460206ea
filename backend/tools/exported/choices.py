"""Classify images: python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

folder = Path(__file__).parent
model = json.loads((folder / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] == "choices"]
heads = [InferenceSession(folder / control["file"]) for control in controls]
encoder = InferenceSession(folder / model["image"]["encoder"])
resampling, size = Image.Resampling[model["image"]["filter"].upper()], (model["image"]["side"],) * 2

for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    if model["image"]["cut"]:
        square = ImageOps.fit(image, size, resampling)
    else:
        square = image.resize(size, resampling, reducing_gap=model["image"]["gap"])
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1)[None] / 255
    embedding = encoder.run(None, {"image": pixels})[0]
    result: dict[str, object] = {"image": path}
    for control, head in zip(controls, heads, strict=True):
        probabilities = head.run(None, {"embedding": embedding})[0][0].tolist()
        pairs = zip(control["labels"], probabilities, strict=True)
        ranked = sorted(pairs, key=lambda pair: -pair[1])
        candidates = ranked if control["multiple"] else ranked[:1]
        labels = [name for name, value in candidates if value >= control["shown"][name]]
        result[control["name"]] = {"labels": labels, "confidence": dict(ranked)}
    print(json.dumps(result, ensure_ascii=False))
