"""Where objects are. python example.py IMAGE... (needs numpy, pillow and onnxruntime)."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

here = Path(__file__).parent
model = json.loads((here / "model.json").read_text("utf-8"))
controls = [control for control in model["controls"] if control["kind"] != "choices"]
run = {f: onnxruntime.InferenceSession(here / f) for f in [c["file"] for c in controls]}

for path in sys.argv[1:]:
    file = Image.open(path)
    file.draft("RGB", (1280, 1280))  # large JPEGs are read smaller, which is quicker
    image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((1280, 1280), Image.Resampling.BILINEAR)
    found: dict[str, object] = {"image": path}
    for control in controls:
        longest, cell = control["size"], control["cell"]
        scaled = np.array([max(1, round(e * longest / max(image.size))) for e in image.size])
        scaled = np.full(2, longest) if control["square"] else scaled  # stretched
        whole = -(-scaled // cell) * cell
        left, top = start = (whole - scaled) // 2
        pixels = np.full((whole[1], whole[0], 3), 114, np.uint8)  # grey around the image
        small = image.resize(tuple(scaled), Image.Resampling.BILINEAR)
        pixels[top : top + scaled[1], left : left + scaled[0]] = small
        batch = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
        boxes, confidence, label = run[control["file"]].run(None, {"image": batch})
        boxes = (boxes - np.tile(start, 2)) / np.tile(scaled, 2)  # 0 to 1 of the image
        places: list[dict[str, Any]] = []
        for box, sure, name in zip(boxes, confidence, label, strict=True):
            if sure < control["shown"]:
                continue
            one = {"label": control["labels"][name], "confidence": float(sure)}
            one["centre"] = centre = (box[:2] + box[2:]) / 2
            # of two points of a label closer than half the object's size the surer one stays
            shape, least = np.array(image.size) / max(image.size), control["sides"][name] / 2
            near = [p for p in places if p["label"] == one["label"]]
            gaps = [np.hypot(*((p["centre"] - centre) * shape)) for p in near]
            if control["kind"] == "boxes":
                inside = np.clip(box, 0, 1)
                if (inside[2:] > inside[:2]).all():
                    places.append({**one, "box": inside.tolist()})
            elif (centre >= 0).all() and (centre <= 1).all() and min(gaps, default=1) >= least:
                places.append(one)
        found[control["name"]] = [{**p, "centre": p["centre"].tolist()} for p in places]
    print(json.dumps(found, ensure_ascii=False))
