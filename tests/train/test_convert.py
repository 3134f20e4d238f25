"""Published weights: the same scores as a plain forward pass, and every way in which a file can be wrong."""

import json
import math
import re
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import jax_itm
from jax_itm.checkpoint.checkpoints import Checkpoints
from jax_itm.checkpoint.state import State
from jax_itm.cli.main import main
from jax_itm.config.load import default
from jax_itm.errors import UserError
from jax_itm.pretrained.uniter import read_uniter, uniter_parameters
from jax_itm.train.convert import convert_uniter
from tests.helpers.uniter_weights import HIDDEN, LAYERS, PIECES, POSITIONS, REGION, published

CAPTIONS = ["A Dog runs over a log.", "a dog", "runs dogs . . . . . . . . . . . . . ."]


def reference(state, ids, regions, boxes, head, heads=2) -> float:
    """UNITER's score of one pair without padding, in float64, straight from the published arrays."""
    get = lambda name: np.asarray(state[name], np.float64)
    linear = lambda name, x: x @ get(f"{name}.weight").T + get(f"{name}.bias")
    erf = np.vectorize(math.erf)

    def norm(name, x):
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return x * get(f"{name}.weight") + get(f"{name}.bias")

    text, image = "uniter.embeddings", "uniter.img_embeddings"
    kind = get(f"{text}.token_type_embeddings.weight")
    words = get(f"{text}.word_embeddings.weight")[ids]
    words = words + get(f"{text}.position_embeddings.weight")[: len(ids)] + kind[0]
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    place = np.concatenate([boxes, np.stack([width, height, width * height], 1)], 1)
    seen = norm(f"{image}.img_layer_norm", linear(f"{image}.img_linear", regions)) + kind[1]
    seen = seen + norm(f"{image}.pos_layer_norm", linear(f"{image}.pos_linear", place))
    x = np.concatenate([norm(f"{text}.LayerNorm", words), norm(f"{image}.LayerNorm", seen)])
    for k in range(LAYERS):
        layer, mixed = f"uniter.encoder.layer.{k}", []
        query, key, value = (linear(f"{layer}.attention.self.{n}", x) for n in ("query", "key", "value"))
        for part in np.split(np.arange(HIDDEN), heads):
            weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(HIDDEN // heads))
            mixed.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
        mixed = linear(f"{layer}.attention.output.dense", np.concatenate(mixed, 1))
        x = norm(f"{layer}.attention.output.LayerNorm", x + mixed)
        inner = linear(f"{layer}.intermediate.dense", x)
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
    pooled = np.tanh(linear("uniter.pooler.dense", x[:1]))
    return linear(head, pooled)[0, -1]  # row 1 of itm_output, or the one row of rank_output


@pytest.fixture
def place(tmp_path):
    """A folder with a vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path


def convert(place, state, run="run", **options):
    save_file(state, place / "weights.safetensors")
    return convert_uniter(
        str(place / "weights.safetensors"), str(place / run), str(place / "vocab.txt"), **options
    )


def settings():
    """A config of the weights' sizes."""
    config = default("iais")
    config.mining.update({"pool": 4, "anchors": 2, "hardest": 2})
    config.uniter.update({"hidden": HIDDEN, "layers": LAYERS, "heads": 2})
    config.name, config.batch_size, config.evaluate.batch_size = "tiny", 4, 8
    config.data.max_words, config.data.max_regions = 12, 5
    return config


def check_scores(matcher, state, head, heads=2):
    rng = np.random.default_rng(1)
    regions = [rng.normal(size=(n, REGION)).astype(np.float16) for n in (2, 4)]  # as they are on disk
    corner = [rng.uniform(0, 0.5, (len(x), 2)) for x in regions]
    boxes = [np.concatenate([x, x + np.array([0.3, 0.4])], 1) for x in corner]
    actual = matcher.score(matcher.encode_images(regions, boxes), matcher.encode_texts(CAPTIONS))
    ids, mask = matcher.tokenizer.encode(CAPTIONS, matcher.config.data.max_words)
    wanted = [
        [reference(state, i[m], x, b, head, heads) for i, m in zip(ids, mask, strict=True)]
        for x, b in zip(regions, boxes, strict=True)
    ]
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(actual, wanted, atol=1e-4)


@pytest.mark.parametrize("head", ["rank_output", "itm_output"])
def test_scores(place, head):
    # A tuned rank_output wins over the itm_output beside it.
    state = published(head)
    said = convert(place, state, config=settings())
    assert ("no tuned rank_output" in said) == (head == "itm_output")
    assert "first 12 of 16" in said and "mask_embedding.* (1)" in said
    matcher = jax_itm.load(str(place / "run"))
    check_scores(matcher, state, head)
    assert matcher.step == 0 and matcher.facts.region_dim == REGION
    assert matcher.config.data.vocab_size == len(matcher.tokenizer) == len(PIECES)


def test_other_heads_and_another_mlp_as_the_config_says(place):
    """The weights tell the MLP's width, and not the number of heads."""
    state = published(mlp=96)
    config = settings()
    config.uniter.update({"heads": 8, "mlp": 96})
    assert "128, 8 heads" in convert(place, state, config=config)
    check_scores(jax_itm.load(str(place / "run")), state, "rank_output", heads=8)
    with pytest.raises(UserError, match=r"config\.uniter\.mlp=0, but 96 in"):
        convert(place, state, "other", config=settings())
    convert(place, state, "default")
    assert jax_itm.load(str(place / "default")).config.uniter.mlp == 96


def test_old_names_heads_of_pretraining_and_an_average(place):
    heads = {f"{name}.weight": np.ones(3) for name in ("cls.predictions.decoder", "feat_regress")}
    state = {name: value.astype(np.float16) for name, value in (published("itm_output") | heads).items()}
    old = lambda name: re.sub(r"bias$", "beta", re.sub(r"weight$", "gamma", name))
    renamed = {old(name) if "norm" in name.lower() else name: value for name, value in state.items()}
    config = settings()
    config.ema = 0.9
    said = convert(place, renamed, config=config)
    assert "cls.* (1), feat_regress.* (1), mask_embedding.* (1)" in said
    check_scores(jax_itm.load(str(place / "run")), state, "itm_output")
    with pytest.raises(UserError, match="twice"):
        convert(place, renamed | {"uniter.embeddings.LayerNorm.weight": np.ones(HIDDEN)}, "other")


def changed(**changes) -> dict[str, np.ndarray]:
    """The published arrays with some replaced, or left out where None; __ stands for a dot."""
    state = published() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in state.items() if value is not None}


WRONG = {
    "missing": (
        changed(uniter__pooler__dense__bias=None, rank_output__bias=None),
        "lacks rank_output.bias, uniter.pooler.dense.bias",
    ),
    "no head": (
        {k: x for k, x in published("itm_output").items() if not k.startswith("itm")},
        "lacks rank_output.weight, and itm_output.weight to make it of",
    ),
    "left over": (
        changed(vqa_output__0__weight=np.ones(3, np.float32), uniter__pooler__dense__bias=None),
        "lacks uniter.pooler.dense.bias; has vqa_output.0.weight, which the model here has not",
    ),
    "a hole": (
        {k.replace("layer.0", "layer.2"): x for k, x in published().items()},
        "and 10 more; has uniter.encoder.layer.2.attention.",
    ),
    "shapes": (
        changed(
            uniter__pooler__dense__weight=np.ones((HIDDEN, 3), np.float32),
            rank_output__bias=np.ones(2, np.float32),
            uniter__embeddings__position_embeddings__weight=np.ones((POSITIONS, 3), np.float32),
        ),
        "rank_output.bias is (2,), not (1,), uniter.embeddings.position_embeddings.weight is (16, 3), not"
        " (16, 128), uniter.pooler.dense.weight is (128, 3), not (128, 128)",
    ),
    "one row": (
        published("itm_output") | {"itm_output.weight": np.ones((1, HIDDEN), np.float32)},
        "itm_output.weight is (1, 128), not (2, 128)",
    ),
    "no matrix": (
        changed(uniter__embeddings__word_embeddings__weight=np.ones(3, np.float32)),
        "word_embeddings.weight is (3,), not a matrix",
    ),
    "rows": (
        changed(uniter__embeddings__word_embeddings__weight=np.ones((20, HIDDEN), np.float32)),
        "13 lines, but the word table",
    ),
    "width": (
        changed(uniter__embeddings__word_embeddings__weight=np.ones((len(PIECES), 100), np.float32)),
        "config.uniter.hidden=128, but 100",
    ),
    "not finite": (
        changed(uniter__pooler__dense__bias=np.full(HIDDEN, np.nan, np.float32)),
        "uniter.pooler.dense.bias holds other than finite real numbers",
    ),
    "integers": (
        changed(uniter__pooler__dense__bias=np.ones(HIDDEN, np.int8)),
        "uniter.pooler.dense.bias holds other than finite real numbers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights(place, name):
    state, said = WRONG[name]
    with pytest.raises(UserError, match=re.escape(said)) as error:
        convert(place, state, config=settings())
    assert "\n" not in str(error.value) and str(place / "weights.safetensors") in str(error.value)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("uniter.layers", 12, r"config\.uniter\.layers=12, but 2 in "),
        ("data.max_words", 17, r"config\.data\.max_words=17, but 16 positions in "),
        ("data.modality", "pixels", r"reads config\.data\.modality='regions', not 'pixels'"),
        ("mining.pool", 3, r"config\.batch_size=4: not whole pools"),
    ],
)
def test_wrong_configs(place, field, value, said):
    config = settings()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=said):
        convert(place, published(), config=config)
    assert not (place / "run").exists()


def test_a_model_with_more_than_uniter():
    weights = read_uniter(published(), "FILE")
    more = {"region_mlp": {"kernel": np.zeros(1)}}
    with pytest.raises(UserError, match=r"config\.uniter: its model also has region_mlp/kernel, which FILE"):
        uniter_parameters(weights, more)


def test_another_method(place):
    with pytest.raises(UserError, match=r"config\.preset='dias'"):
        convert(place, published(), config=default("dias"))


def test_files(place, capsys, monkeypatch):
    weights, vocab = str(place / "weights.safetensors"), str(place / "vocab.txt")
    command = lambda source: ["convert", "uniter", source, str(place / "run"), "--vocab", vocab]

    def line(source):
        assert main(command(str(source))) == 2
        return capsys.readouterr().err

    assert "No such file" in line(weights)
    (place / "weights.safetensors").write_bytes(b"not weights")
    assert "cannot be read as safetensors" in line(weights)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert "pip install safetensors" in line(weights)
    (place / "weights.pt").write_bytes(b"not weights")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs PyTorch" in line(place / "weights.pt")
    (place / "run").write_text("")
    assert "is a file" in line(weights)


def test_torch_files(place, capsys):
    torch = pytest.importorskip("torch")
    state, source = published(), place / "weights.pt"
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, source)
    convert_uniter(str(source), str(place / "run"), str(place / "vocab.txt"), settings())
    check_scores(jax_itm.load(str(place / "run")), state, "rank_output")
    for wrong, said in (({"model": tensors}, "not a plain state dict: model"), ([1], "holds a list")):
        torch.save(wrong, source)
        with pytest.raises(UserError, match=said):
            convert_uniter(str(source), str(place / "other"), str(place / "vocab.txt"))
    source.write_bytes(b"not weights")
    with pytest.raises(UserError, match="PyTorch cannot read weights"):
        convert_uniter(str(source), str(place / "other"), str(place / "vocab.txt"))


def test_command(place, capsys):
    source, rng = place / "raw", np.random.default_rng(2)
    source.mkdir()
    np.save(source / "test_ims.npy", rng.normal(size=(4, 3, REGION)).astype(np.float16))
    np.save(source / "boxes.npy", np.array([[0, 0, 0.5, 1]] * 3, np.float32))
    (source / "test_caps.txt").write_text("\n".join(["a Dog runs", "a log"] * 10) + "\n")
    assert main(["prepare", "precomp", "--source", str(source), "--data_dir", str(place / "data")]) == 0
    save_file(published(), place / "weights.safetensors")
    run, weights = str(place / "run"), str(place / "weights.safetensors")
    command = ["convert", "uniter", weights, run, "--vocab", str(place / "vocab.txt")]
    assert main(command) == 0
    assert f"uniter in {run}: 2 layers of 128, 2 heads, 13 word pieces" in capsys.readouterr().out
    assert main(command) == 2
    assert "holds a run's checkpoints already" in capsys.readouterr().err
    assert json.loads((place / "run" / "config.json").read_text())["name"] == "uniter"
    out = str(place / "result.json")
    data = ("--data", "precomp", "--data_dir", str(place / "data"))
    assert main(["evaluate", "--workdir", run, *data, "--out", out]) == 0
    assert json.loads((place / "result.json").read_text())["cost"]["pairs"] == 80


def test_a_converted_run_is_not_gone_on_with(place):
    convert(place, published(), config=settings())
    matcher = jax_itm.load(str(place / "run"))
    state = State(matcher.params["rank_output"]["bias"], matcher.params, matcher.params, None)
    with pytest.raises(UserError, match="without optimizer state"):
        Checkpoints(str(place / "run")).restore_state(0, state)
