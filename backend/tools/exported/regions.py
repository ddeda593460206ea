"""Detect objects in images: python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

folder = Path(__file__).parent
model = json.loads((folder / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] != "choices"]
networks = [InferenceSession(folder / control["file"]) for control in controls]

for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    shape = np.array(image.size) / max(image.size)
    result: dict[str, object] = {"image": path}
    for control, network in zip(controls, networks, strict=True):
        size, stride = control["size"], control["cell"]
        fitted = [max(1, round(size * edge)) for edge in shape]
        scaled = [size, size] if control["square"] else fitted  # stretch, or keep the aspect ratio
        padded = [-(-edge // stride) * stride for edge in scaled]
        offset = [(outer - inner) // 2 for outer, inner in zip(padded, scaled, strict=True)]
        canvas = Image.new("RGB", (padded[0], padded[1]), (114, 114, 114))  # grey padding
        resized = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
        canvas.paste(resized, (offset[0], offset[1]))
        pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255
        boxes, confidence, label = network.run(None, {"image": pixels})
        boxes = (boxes - offset * 2) / (scaled * 2)  # 0 to 1 of the image
        centers, clipped = (boxes[:, :2] + boxes[:, 2:]) / 2, np.clip(boxes, 0, 1)
        is_points, sides = control["kind"] == "points", control["sides"]
        if is_points:
            is_inside = centers == np.clip(centers, 0, 1)
        else:
            is_inside = clipped[:, 2:] > clipped[:, :2]
        kept: list[int] = []
        for i in np.flatnonzero((confidence >= control["shown"]) & is_inside.all(1)).tolist():
            # of points closer than half the object's size, keep the most confident one
            rivals = [centers[k] for k in kept if is_points and label[k] == label[i]]
            distances = [np.hypot(*((centers[i] - center) * shape)) for center in rivals]
            kept += [i] if min(distances, default=1.0) >= sides[label[i]] / 2 else []
        result[control["name"]] = [
            {"label": control["labels"][label[i]], "confidence": float(confidence[i])}
            | ({"centre": centers[i].tolist()} if is_points else {"box": clipped[i].tolist()})
            for i in kept
        ]
    print(json.dumps(result, ensure_ascii=False))
