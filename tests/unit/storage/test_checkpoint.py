"""The configuration beside a checkpoint's weights, whatever its bytes are."""

from __future__ import annotations

import pytest

from flexinfer.errors import ArtifactError
from flexinfer.storage import checkpoint


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param(b"<html>", "malformed", id="a page"),
        pytest.param(b"[1]", "object", id="no object"),
        pytest.param(b'{"model_type":"\xff"}', "utf-8", id="no UTF-8"),
        pytest.param(b'{"a":' + b"[" * 100_000, "recursion", id="a hundred thousand brackets"),
        pytest.param(b"{}", "no .safetensors file", id="no weights beside it"),
    ],
)
def test_what_is_wrong_is_said_with_the_path(tmp_path, config, said):
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ArtifactError, match=said) as raised:
        checkpoint.inspect(tmp_path)
    assert str(tmp_path) in str(raised.value)
