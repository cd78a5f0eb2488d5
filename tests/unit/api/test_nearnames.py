import pytest

from flexinfer.api.nearnames import nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("contextsize", "contextSize", id="another case"),
        pytest.param("contxtSize", "contextSize", id="a letter too few"),
        pytest.param("threads", "threads", id="the name itself"),
        pytest.param("zzz", None, id="nothing is near"),
        pytest.param("contextSize" * 10, None, id="too long to be a mistyped name"),
    ],
)
def test_nearest(name, expected):
    assert nearest(name, ["contextSize", "threads"]) == expected
