"""Exported directories read by the real transformers library, by hand: its outputs against this library's.

    python tests/goldens/check_export.py export DIR       in this project's environment
    python tests/goldens/check_export.py compare DIR      in one with PyTorch and transformers

The first trains nothing: it starts runs of the recorded encoders, exports them, and stores their outputs.
"""

import json
import sys
from pathlib import Path

import numpy as np

CAPTIONS = ["a dog runs over a log", "two cats", ""]
PICTURES = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), np.uint8)


def export(folder: Path) -> None:
    """Writes the exported directories and what this library says of the captions and pictures."""
    import jax_itm
    from jax_itm.methods import merge_adapters
    from jax_itm.pretrained.export_hf import TrainedRun, export_huggingface
    from jax_itm.train.convert import convert_pair
    from tests.helpers.golden_encoders import clip_files, written

    for name in ("clip", "siglip", "siglip2"):
        place = folder / name
        place.mkdir(parents=True)
        clip_files(written(name, place / "published"), place / "published", "tokenizer.json")
        look = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
        (place / "published" / "preprocessor_config.json").write_text(json.dumps(look))
        convert_pair(name.removesuffix("2"), str(place / "published"), str(place / "run"))
        matcher = jax_itm.load(str(place / "run"))
        params = merge_adapters(matcher.params, matcher.config)
        run = TrainedRun(matcher.config, matcher.facts, params, matcher.tokenizer)
        print("\n".join(export_huggingface(run, str(place / "out"))))
        images = matcher.encode_images(PICTURES)
        np.savez(place / "ours.npz", image=images, text=matcher.encode_texts(CAPTIONS))

    _export_backbones(folder / "backbones")


def _export_backbones(place: Path) -> None:
    """A run of a ViT and a BERT with poolings of its own."""
    import jax
    import jax.numpy as jnp

    from jax_itm.config import default
    from jax_itm.methods import build, example_batch
    from jax_itm.pretrained.export_hf import TrainedRun, export_huggingface
    from jax_itm.train.init_from import read_source
    from jax_itm.train.start_rules import start_from
    from tests.helpers.golden_encoders import written

    place.mkdir()
    config = default("vsepp")
    for side, name in (("image", "vit"), ("text", "bert")):
        written(name, place / name)
        config[side].update({"name": "pretrained", "path": str(place / name), "pooling": "mean"})
    look = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (place / "vit/preprocessor_config.json").write_text(json.dumps(look))
    config.dim, config.data.max_words, config.data.modality = 8, 9, "pixels"
    start = read_source(config)
    method = build(config, start.facts)
    params = start_from(method.init(jax.random.key(0), example_batch(config, start.facts)), start)
    run = TrainedRun(config, start.facts, params, start.tokenizer)
    print("\n".join(export_huggingface(run, str(place / "out"))))
    ids, mask = start.tokenizer.encode(["a b c", "p"], 9)
    inputs = {
        "image": {"pixels": jnp.asarray(PICTURES)},
        "text": {"ids": jnp.asarray(ids), "mask": jnp.asarray(mask)},
    }
    tokens = {}
    for side, module in method.encoders.modules.items():
        backbone = {"params": params[side]["backbone"]}
        tokens[side] = np.asarray(module.backbone.apply(backbone, inputs[side]).features)
    np.savez(place / "ours.npz", image=tokens["image"], text=tokens["text"][mask])


def _compare_backbones(place: Path) -> None:
    import torch
    import transformers

    ours = np.load(place / "ours.npz")
    image = transformers.AutoModel.from_pretrained(place / "out/image").eval()
    text = transformers.AutoModel.from_pretrained(place / "out/text").eval()
    look = transformers.AutoImageProcessor.from_pretrained(place / "out/image", backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "out/text")
    words = tokenizer(["a b c", "p"], padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        images = image(**look(list(PICTURES), return_tensors="pt")).last_hidden_state.numpy()
        texts = text(words["input_ids"], words["attention_mask"]).last_hidden_state
    for side, theirs in (("image", images), ("text", texts[words["attention_mask"].bool()].numpy())):
        apart = np.abs(theirs - ours[side]).max()
        print(f"backbones, {side}: largest difference {apart:.2g}")
        assert apart < 1e-4


def compare(folder: Path) -> None:
    """Reads each directory with AutoModel and AutoTokenizer, and prints the largest difference."""
    import torch
    import transformers

    _compare_backbones(folder / "backbones")
    for name in ("clip", "siglip", "siglip2"):
        place = folder / name
        out = place / "out"
        model = transformers.AutoModel.from_pretrained(out).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        look = transformers.AutoImageProcessor.from_pretrained(out, backend="pil")
        words = tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt")
        pixels = look(list(PICTURES), return_tensors="pt")["pixel_values"]
        mask = {"attention_mask": words["attention_mask"]} if "siglip" not in place.name else {}
        with torch.no_grad():
            said = model(input_ids=words["input_ids"], pixel_values=pixels, **mask)
        ours = np.load(place / "ours.npz")
        for side, theirs in (("image", said.image_embeds), ("text", said.text_embeds)):
            apart = np.abs(theirs.numpy() - ours[side]).max()
            print(f"{place.name}: {type(model).__name__}, {side}: largest difference {apart:.2g}")
            assert apart < 1e-4


if __name__ == "__main__":
    {"export": export, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
