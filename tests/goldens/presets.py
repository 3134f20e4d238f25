"""Reads presets.npz (numpy alone): `load(path)[case]` has `options`, `in`, `out` and `grad`.

What several cases share is merged into each of them, and `flat:` gradients are split into their paths.
"""

import json
from types import SimpleNamespace

import numpy as np


def load(path):
    """{case: namespace(options, inputs, out, grad)}; `inputs` is what the key calls `in`."""
    raw = {}
    with np.load(path) as file:
        for key in file.files:
            case, kind, name = key.split("/", 2)
            raw.setdefault(case, {"in": {}, "out": {}, "grad": {}})[kind][name] = file[key]
    cases = {}
    for case, actual in raw.items():
        if case.startswith("shared."):
            continue
        options = json.loads(str(actual["in"].pop("options")))
        inputs, out = {}, {}
        for shared in options["uses"]:
            inputs |= raw[shared]["in"]
            out |= raw[shared]["out"]
        inputs |= actual["in"]
        for path in options.get("unused_params", ()):
            del inputs[f"params/{path}"]
        cases[case] = SimpleNamespace(
            options=options, inputs=inputs, out=out | actual["out"], grad=_split(actual["grad"], inputs)
        )
    return cases


def _split(grads, inputs):
    done = {}
    for name, grad in grads.items():
        if not name.startswith("flat:"):
            done[name] = grad
            continue
        prefix, at = "params/" + name.removeprefix("flat:"), 0  # of "flat:" alone: all parameters
        paths = sorted(k.removeprefix("params/") for k in inputs if k.startswith(prefix.rstrip("/") + "/"))
        for path in paths:
            like = inputs[f"params/{path}"]
            done[path] = grad[at : at + like.size].reshape(like.shape)
            at += like.size
        assert at == grad.size, name
    return done


def tree(flat):
    """{'image/linear/kernel': x} as nested dicts."""
    root = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        at = root
        for name in parents:
            at = at.setdefault(name, {})
        at[last] = leaf
    return root


def under(inputs, prefix):
    """The entries of `inputs` below `prefix`/, as nested dicts: under(case.inputs, "params")."""
    return tree({k[len(prefix) + 1 :]: v for k, v in inputs.items() if k.startswith(prefix + "/")})
