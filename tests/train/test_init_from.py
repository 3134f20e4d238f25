"""What a run starts from: all of another run, a BERT directory's words and layers, or one clear line."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from jax_itm.config import Facts
from jax_itm.config.load import default
from jax_itm.errors import UserError
from jax_itm.methods import build, example_batch
from jax_itm.train.init_from import read_source
from jax_itm.train.start_rules import Source, start_from
from tests.helpers.uniter_weights import HIDDEN, PIECES, POSITIONS, REGION, published

DESCRIBED = {
    "model_type": "bert",
    "hidden_size": HIDDEN,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 4 * HIDDEN,
    "hidden_act": "gelu",
}


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT as transformers saves it."""
    state = {k.removeprefix("uniter."): v for k, v in published().items() if "img_" not in k}
    save_file({f"bert.{k}": v for k, v in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (tmp_path / "config.json").write_text(json.dumps(DESCRIBED))
    return tmp_path


FACTS = Facts(region_dim=REGION, vocab=len(PIECES))


def settings(where, **uniter):
    config = default("iais")
    config.uniter.update({"hidden": HIDDEN, "layers": 1, "heads": 2} | uniter)
    config.mining.update({"pool": 4, "anchors": 2, "hardest": 2})
    config.batch_size, config.start = 4, str(where)
    config.data.max_words, config.data.max_regions = POSITIONS - 3, 3
    return config


def test_a_bert_directory_gives_words_and_the_first_layers(folder):
    config = settings(folder)
    start = read_source(config, FACTS)
    params = jax.jit(build(config, FACTS).init)(jax.random.key(0), example_batch(config, FACTS))
    built, state = start_from(params, start), published()
    assert jax.tree.structure(built) == jax.tree.structure(params)
    np.testing.assert_array_equal(
        built["embeddings"]["words"]["embedding"], state["uniter.embeddings.word_embeddings.weight"]
    )
    np.testing.assert_array_equal(
        built["embeddings"]["positions"]["embedding"],
        state["uniter.embeddings.position_embeddings.weight"][: POSITIONS - 3],
    )
    layer = "uniter.encoder.layer.0.attention.self"
    attention = built["layer_0"]["attention"]
    by_head = (HIDDEN, 2, HIDDEN // 2)
    key = state[f"{layer}.key.weight"].T.reshape(by_head)
    np.testing.assert_array_equal(attention["key"]["kernel"], key)
    bias = state[f"{layer}.query.bias"].reshape(by_head[1:])
    np.testing.assert_array_equal(attention["query"]["bias"], bias)
    pooler = state["uniter.pooler.dense.weight"].T
    np.testing.assert_array_equal(built["pooler"]["kernel"], pooler)
    for name in ("img_linear", "pos_linear", "img_norm", "rank_output"):
        jax.tree.map(np.testing.assert_array_equal, built[name], params[name])
    ids, mask = start.tokenizer.encode(["A Dog"], 5)  # uncased, as BERT's default is
    assert [PIECES[k] for k in ids[0][mask[0]]] == ["[CLS]", "a", "dog", "[SEP]"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert PIECES[read_source(config, FACTS).tokenizer.encode(["A Dog"], 5)[0][0, 2]] == "Dog"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 64}, "has hidden_size 128, config.uniter needs 64"),
        ({"heads": 4}, "has num_attention_heads 2, config.uniter needs 4"),
        ({"layers": 3}, "config.uniter.layers=3: .* has 2"),
    ],
)
def test_a_bert_of_other_sizes_is_refused(folder, change, message):
    with pytest.raises(UserError, match=message):
        read_source(settings(folder, **change), FACTS)


def test_what_is_missing_is_named(folder):
    config = settings(folder)
    save_file({"bert.pooler.dense.bias": np.zeros(HIDDEN, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks embeddings\.LayerNorm\.bias, .* and \d+ more"):
        read_source(config, FACTS)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: not a table in JSON"):
        read_source(config, FACTS)
    (folder / "config.json").write_text("{oops")
    with pytest.raises(UserError, match=r"config\.json:1: not JSON"):
        read_source(config, FACTS)
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"no BERT directory either: no vocab\.txt"):
        read_source(config, FACTS)
    other = default("dias")
    other.start = str(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    with pytest.raises(UserError, match="starts a cross-encoder alone"):
        read_source(other, FACTS)


def test_a_deeper_run_grows_from_a_shallower_one(tmp_path):
    shallow, deep = settings("", layers=1), settings("", layers=3)
    old, batch = build(shallow, FACTS), example_batch(shallow, FACTS, 4)
    params = jax.jit(old.init)(jax.random.key(0), batch)
    values = flatten_dict(params, sep="/")
    new = build(deep, FACTS)
    built = start_from(
        jax.jit(new.init)(jax.random.key(1), batch), Source("START", values, True, None, FACTS)
    )
    for path, value in flatten_dict(built, sep="/").items():
        if path in values:
            np.testing.assert_array_equal(value, values[path])
    # A layer that adds nothing leaves its input, which a LayerNorm has normalised already.
    score = lambda method, of: jax.jit(
        lambda of: method.score_pairs(
            of, method.encode_image(of, batch["image"]), method.encode_text(of, batch["text"])
        )
    )(of)
    np.testing.assert_allclose(score(new, built), score(old, params), atol=1e-4)
    with pytest.raises(UserError, match=r"layer_1/.* is .* there, absent here"):
        start_from(params, Source("START", flatten_dict(built, sep="/"), True, None, FACTS))
