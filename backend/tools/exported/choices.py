"""What images show. python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

here = Path(__file__).parent
model = json.loads((here / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] == "choices"]
heads = [InferenceSession(here / control["file"]) for control in controls]
encoder = InferenceSession(here / model["image"]["encoder"])
how, size = Image.Resampling[model["image"]["filter"].upper()], (model["image"]["side"],) * 2

for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    whole = image.resize(size, how, reducing_gap=model["image"]["gap"])
    square = ImageOps.fit(image, size, how) if model["image"]["cut"] else whole
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1)[None] / 255
    embedding = encoder.run(None, {"image": pixels})[0]
    found: dict[str, object] = {"image": path}
    for control, head in zip(controls, heads, strict=True):
        confidence = head.run(None, {"embedding": embedding})[0][0].tolist()
        ranked = sorted(zip(control["labels"], confidence, strict=True), key=lambda one: -one[1])
        best = ranked if control["multiple"] else ranked[:1]
        labels = [name for name, sure in best if sure >= control["shown"][name]]
        found[control["name"]] = {"labels": labels, "confidence": dict(ranked)}
    print(json.dumps(found, ensure_ascii=False))
