"""Named architectures from random values: as large as the published models, and trained without any file."""

import math

import jax
import pytest

import jax_itm
from jax_itm.cli.main import main
from jax_itm.config import Facts
from jax_itm.config.load import check, default
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.pretrained.architectures import ARCHITECTURES, with_vocabulary
from jax_itm.train.init_from import read_source
from tests.helpers.golden_encoders import RUN
from tests.helpers.tiny_run import write_precomp

# Parameters of published models, by the transformers library: backbones, or entire pairs without their scale.
PUBLISHED = [
    ("vit-b-16", "bert-base", "cls", 85_798_656, 108_891_648),  # BERT without its pooler
    ("clip-vit-b-32", "clip-base", "clip", 87_849_216, 63_428_096),  # 151,277,312
    ("clip-vit-l-14", "clip-large", "clip", 303_966_208, 123_650_304),  # 427,616,512
    ("siglip-vit-b-16", "siglip-base", "siglip", 92_884_224, 110_271_744),  # 203,155,968
]
VOCAB = {"bert": 30522, "clip": 49408, "siglip": 32000}
WORDS = {"bert": 512, "clip": 77, "siglip": 64}


def settings(image: str, text: str, pooling: str):
    config = default("info_nce")
    for side, arch in (("image", image), ("text", text)):
        config[side].update({"name": "pretrained", "arch": arch, "pooling": pooling})
    kind = text.split("-")[0]
    config.dim = {"siglip-base": 768, "clip-base": 512, "clip-large": 768}.get(text, 8)
    config.data.max_words, config.data.modality = WORDS[kind], "pixels"
    check(config)
    return config


@pytest.mark.parametrize(("image", "text", "pooling", "images", "texts"), PUBLISHED)
def test_they_are_as_large_as_the_published_ones(image, text, pooling, images, texts):
    config = settings(image, text, pooling)
    facts = read_source(config, Facts()).facts
    vocab = VOCAB[text.split("-")[0]]
    facts = facts._replace(vocab=vocab, text_architecture=with_vocabulary(facts.text_architecture, vocab))
    params = jax.eval_shape(build(config, facts).init, jax.random.key(0), example_batch(config, facts))
    parts = "backbone" if pooling == "cls" else None
    for side, count in (("image", images), ("text", texts)):
        tree = params[side][parts] if parts else params[side]
        assert sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) == count, side


def test_every_name_is_an_encoder():
    for side, names in ARCHITECTURES.items():
        for name in names:
            config = settings("vit-b-16", "bert-mini", "mean")
            config[side].arch = name
            size = 224 if side == "image" else 512
            arch = read_source(config, Facts()).facts.architecture(side)
            assert arch["image_size" if side == "image" else "positions"] == size


def test_a_run_of_nothing_but_a_name(tmp_path):
    source = write_precomp(tmp_path / "raw", {"train": 12, "dev": 6})
    data = str(tmp_path / "data")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", data]) == 0
    (tmp_path / "tiny.py").write_text(RUN)
    run = str(tmp_path / "run")
    fields = [f"--config.data.data_dir={data}", "--config.text.frozen=False", "--config.text.arch=bert-mini"]
    assert main(["train", "--config", f"{tmp_path}/tiny.py", "--workdir", run, *fields]) == 0
    matcher = jax_itm.load(run)
    arch = matcher.facts.text_architecture
    assert (arch.vocab, arch.positions, arch.width) == (len(matcher.tokenizer), 8, 256)
    assert matcher.encode_texts(["a b"]).shape == (1, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image.arch": "vit-b-17"},
            r"config\.image\.arch='vit-b-17': no such architecture; there are vit-s",
        ),
        ({"image.size": 225}, r"config\.image\.size=225: is not whole patches of 16 \(vit-b-16\)"),
        ({"image.path": "x"}, r"config\.image\.arch='vit-b-16': .* without a path, and not frozen"),
        ({"text.frozen": True}, r"config\.text\.arch='bert-base': .* not frozen"),
        (
            {"image.pooling": "clip"},
            r"config\.image\.pooling='clip': vit-b-16 is a vit; it has no projection",
        ),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    config = settings("vit-b-16", "bert-base", "mean")
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        check(config)
        read_source(config, Facts())
