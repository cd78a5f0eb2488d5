import pytest

from flexinfer.lifecycle import restarts


@pytest.mark.parametrize(
    ("done", "pause_s"),
    [
        pytest.param(0, 1.0, id="the first restart comes after a second"),
        pytest.param(1, 2.0, id="the second after two"),
        pytest.param(2, None, id="then it gives up"),
    ],
)
def test_backoff(done, pause_s):
    assert restarts.backoff_s(done) == pause_s


@pytest.mark.parametrize(
    ("done", "ready_for_s", "counts"),
    [
        pytest.param(2, 0.0, 2, id="an engine that never became ready keeps its count"),
        pytest.param(2, 59.9, 2, id="so does one that died soon"),
        pytest.param(2, 60.0, 0, id="one that served for a minute starts afresh"),
    ],
)
def test_counted(done, ready_for_s, counts):
    assert restarts.counted(done, ready_for_s) == counts
