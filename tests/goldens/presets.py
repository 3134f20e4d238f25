"""Reads presets.npz (numpy alone): `load(path)[case]` has `options`, `in`, `out` and `grad`.

What several cases share is merged into each of them, and `flat:` gradients are split into their paths.
"""

import json
from types import SimpleNamespace

import numpy as np


def load(path):
    """{case: namespace(options, given, out, grad)}; `given` is what the key calls `in`."""
    raw = {}
    with np.load(path) as file:
        for key in file.files:
            case, kind, name = key.split("/", 2)
            raw.setdefault(case, {"in": {}, "out": {}, "grad": {}})[kind][name] = file[key]
    cases = {}
    for case, found in raw.items():
        if case.startswith("shared."):
            continue
        options = json.loads(str(found["in"].pop("options")))
        given, out = {}, {}
        for shared in options["uses"]:
            given |= raw[shared]["in"]
            out |= raw[shared]["out"]
        given |= found["in"]
        for path in options.get("unused_params", ()):
            del given[f"params/{path}"]
        cases[case] = SimpleNamespace(
            options=options, given=given, out=out | found["out"], grad=_split(found["grad"], given)
        )
    return cases


def _split(grads, given):
    done = {}
    for name, grad in grads.items():
        if not name.startswith("flat:"):
            done[name] = grad
            continue
        prefix, at = "params/" + name.removeprefix("flat:"), 0  # of "flat:" alone: all parameters
        paths = sorted(k.removeprefix("params/") for k in given if k.startswith(prefix.rstrip("/") + "/"))
        for path in paths:
            like = given[f"params/{path}"]
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


def under(given, prefix):
    """The entries of `given` below `prefix`/, as nested dicts: under(case.given, "params")."""
    return tree({k[len(prefix) + 1 :]: v for k, v in given.items() if k.startswith(prefix + "/")})
