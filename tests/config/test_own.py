"""The config for one's own data."""

import pytest

from jax_itm.config import read
from jax_itm.errors import UserError

OWN = "configs/own.py"


@pytest.mark.parametrize(
    ("arg", "image", "text", "cached"),
    [
        ("", "vit", "bigru", []),
        (":text=DIR", "vit", "pretrained", ["text"]),
        (":text=a/b,image=c/d,method=sigmoid", "pretrained", "pretrained", ["image", "text"]),
        (":data=precomp", "regions", "bigru", []),
        (":data=uniter,text=DIR", "regions", "pretrained", ["text"]),
    ],
)
def test_encoders_follow_from_the_data(arg, image, text, cached):
    config = read(OWN + arg, ["--config.data.source=DIR"])
    assert (config.image.name, config.text.name) == (image, text)
    assert [side for side in ("image", "text") if config[side].cached and config[side].frozen] == cached
    assert config.data.source == "DIR" and config.name == "own"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        (":data=pictures", "data=pictures: must be one of folder, flickr8k"),
        (":txt=DIR", "did you mean 'text'"),
        (":method=best", "no preset 'best'"),
    ],
)
def test_a_wrong_argument_is_one_line(arg, message):
    with pytest.raises(UserError, match=message):
        read(OWN + arg, [])
