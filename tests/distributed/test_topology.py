"""What is said of machines that cannot be had."""

import pytest

from jax_itm.distributed.topology import offline_devices
from jax_itm.errors import UserError


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "h100:8:8", "h100:0", "h100:", "v5e:4 x 8"])
def test_an_unknown_slice_is_refused(name):
    with pytest.raises(UserError, match=r"--topology .*: must be a generation \(v4, v5e"):
        offline_devices(name)
