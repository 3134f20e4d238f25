"""Scores images with captions by the exported run in this folder, without jax_itm.

    python use.py "a caption" IMAGE ..

An image is a picture or, for a run on region features, a .npy file (regions, features);
one that was trained on boxes, too, takes them in Python alone.

Needs jax, flatbuffers (with which JAX reads programs), numpy and tokenizers, and pillow where the run reads
pictures.
"""

import sys
from pathlib import Path

import numpy as np
from exported import Exported

run = Exported(Path(__file__).parent)
caption, *files = sys.argv[1:]
if run.about["modality"] == "pixels":
    images = run.pictures(files)
else:
    images = run.regions([np.load(file) for file in files])
scores = run.score_all(images, run.texts([caption]))
for score, file in sorted(zip(scores[:, 0], files, strict=True), reverse=True):
    print(f"{score:.9g}  {file}")
