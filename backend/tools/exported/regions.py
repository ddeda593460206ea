"""Where objects are. python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

here = Path(__file__).parent
model = json.loads((here / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] != "choices"]
networks = [InferenceSession(here / control["file"]) for control in controls]

for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    shape = np.array(image.size) / max(image.size)
    found: dict[str, object] = {"image": path}
    for control, network in zip(controls, networks, strict=True):
        size, cell = control["size"], control["cell"]
        fitted = [max(1, round(size * edge)) for edge in shape]
        scaled = [size, size] if control["square"] else fitted  # stretched, or as it is
        whole = [-(-edge // cell) * cell for edge in scaled]
        start = [(outer - inner) // 2 for outer, inner in zip(whole, scaled, strict=True)]
        canvas = Image.new("RGB", (whole[0], whole[1]), (114, 114, 114))  # grey around the image
        small = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
        canvas.paste(small, (start[0], start[1]))
        pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255
        boxes, confidence, label = network.run(None, {"image": pixels})
        boxes = (boxes - start * 2) / (scaled * 2)  # 0 to 1 of the image
        middles, inside = (boxes[:, :2] + boxes[:, 2:]) / 2, np.clip(boxes, 0, 1)
        points, sides = control["kind"] == "points", control["sides"]
        there = middles == np.clip(middles, 0, 1) if points else inside[:, 2:] > inside[:, :2]
        kept: list[int] = []
        for i in np.flatnonzero((confidence >= control["shown"]) & there.all(1)).tolist():
            # of points of a label closer than half the object's size the surest one stays
            near = [middles[k] for k in kept if points and label[k] == label[i]]
            apart = [np.hypot(*((middles[i] - middle) * shape)) for middle in near]
            kept += [i] if min(apart, default=1.0) >= sides[label[i]] / 2 else []
        found[control["name"]] = [
            {"label": control["labels"][label[i]], "confidence": float(confidence[i])}
            | ({"centre": middles[i].tolist()} if points else {"box": inside[i].tolist()})
            for i in kept
        ]
    print(json.dumps(found, ensure_ascii=False))
