"""An encoder of one's own becomes a value of a field."""

import pytest

from jax_itm import config, models
from jax_itm.config import Facts
from jax_itm.config.fields import IMAGE, TEXT
from jax_itm.errors import UserError
from jax_itm.models.build import REGISTERED, encoder


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    for section in (IMAGE, TEXT):
        monkeypatch.setitem(section, "name", section["name"])
    yield
    REGISTERED.clear()


def words_alone(config, facts):
    return models.BagOfWords(config.dim, facts.vocab)


def test_the_field_takes_the_name_and_the_run_its_encoder():
    run = config.default("info_nce")
    run.text.name = "words"
    with pytest.raises(UserError, match=r"config.text.name='words': must be one of 'bigru'"):
        config.check(run)
    models.register_encoder("text", "words")(words_alone)
    config.check(run)
    assert isinstance(encoder(run, Facts(vocab=7), "text"), models.BagOfWords)
    assert isinstance(encoder(run, Facts(region_dim=4), "image"), models.RegionEncoder)
    run.text.name = "bigru"
    assert isinstance(encoder(run, Facts(vocab=7), "text"), models.BiGruText)


def test_the_same_definition_may_run_again_and_another_has_another_name():
    models.register_encoder("text", "words")(words_alone)
    models.register_encoder("text", "words")(words_alone)
    with pytest.raises(UserError, match=r"config.text.name: there is such an encoder already, 'words'"):
        models.register_encoder("text", "words")(lambda config, facts: models.BagOfWords(1, 1))
    with pytest.raises(UserError, match=r"config.image.name: there is such an encoder already, 'vit'"):
        models.register_encoder("image", "vit")(words_alone)
    with pytest.raises(UserError, match="side 'texts' must be one of image, text"):
        models.register_encoder("texts", "words")(words_alone)
    assert TEXT["name"].choices.count("words") == 1
