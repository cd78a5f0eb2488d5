import hashlib
import re
import statistics
import time

import pytest

from flexinfer.errors import RequestError
from flexinfer.proxy import keys
from flexinfer.proxy.keys import BadKeyFile, KeyRing

KEY = "correct-horse-battery"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(KEY, ["line-1"], id="a bare key is called by its line"),
        pytest.param(f"alice:{KEY}", ["alice"], id="a key with a name"),
        pytest.param(f"alice:sha256:{HASH}", ["alice"], id="a hash with a name"),
        pytest.param(f"sha256:{HASH}", ["line-1"], id="a hash without a name"),
        pytest.param(f"# team\n\n  bob:{KEY}  \n", ["bob"], id="comments, blank lines and spaces around"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_lines(text, names):
    assert list(keys.parse(text).values()) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("short", "line 1: expected a key of at least 16 characters", id="too short"),
        pytest.param(f"{KEY}\na b:{KEY}", "line 2: expected KEY, NAME:KEY or NAME:sha256:HEX", id="a space inside"),
        pytest.param("alice:sha256:12", "line 1: expected KEY, NAME:KEY or NAME:sha256:HEX", id="half a hash"),
        pytest.param(f"schlüssel:{KEY}", "line 1: expected KEY, NAME:KEY or NAME:sha256:HEX", id="a name not in ASCII"),
    ],
)
def test_bad_lines_are_named_without_the_key(text, said):
    with pytest.raises(BadKeyFile, match=re.escape(said)):
        keys.parse(text)


@pytest.fixture
def ring(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"alice:{KEY}\n")
    return KeyRing(path, 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([f"Bearer {KEY}"], id="as it is usually written"),
        pytest.param([f"bearer {KEY}"], id="the scheme in any case"),
        pytest.param([f"BEARER   {KEY}"], id="several spaces"),
    ],
)
def test_a_good_key_names_its_holder(ring, fields):
    assert ring.name_of([field.encode() for field in fields], 0.0) == "alice"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="empty"),
        pytest.param([KEY.encode()], id="no scheme"),
        pytest.param([b"Basic " + KEY.encode()], id="another scheme"),
        pytest.param([b"Bearer " + KEY.encode(), b"Bearer " + KEY.encode()], id="two fields"),
        pytest.param([b"Bearer " + KEY.encode()[:-1]], id="a prefix of the key"),
        pytest.param([b"Bearer " + KEY.encode() + b"x"], id="a longer key"),
        pytest.param([b"Bearer " + KEY.upper().encode()], id="the key in another case"),
        pytest.param([b"Bearer " + KEY.encode() + b"\x00"], id="a NUL behind it"),
        pytest.param([b"Bearer " + KEY.encode() + b"\xc2\xa0"], id="a no-break space behind it"),
        pytest.param([b"Bearer ' OR 1=1 --"], id="SQL"),
        pytest.param([b"Bearer " + HASH.encode()], id="the hash instead of the key"),
        pytest.param([b"Bearer " + b"a" * 100_000], id="a huge one"),
    ],
)
def test_anything_else_is_401(ring, fields):
    with pytest.raises(RequestError) as refused:
        ring.name_of(fields, 0.0)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert KEY not in refused.value.message


def test_a_removed_key_is_refused_within_two_seconds(tmp_path, ring):
    (tmp_path / "keys").write_text("bob:another-good-key-here\n")
    assert ring.name_of([b"Bearer another-good-key-here"], 2.0) == "bob"
    with pytest.raises(RequestError):
        ring.name_of([f"Bearer {KEY}".encode()], 2.1)


def test_f48_a_mounted_secret_is_followed_when_the_kubelet_swaps_its_folder(tmp_path):
    """`keys.txt` leads to `..data/keys.txt`, and `..data` to a folder that is replaced as a whole."""
    for folder, key in (("..old", KEY), ("..new", KEY[::-1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys.txt").write_text(f"alice:{key}\n")
    (tmp_path / "..data").symlink_to("..old")
    (tmp_path / "keys.txt").symlink_to("..data/keys.txt")
    ring = KeyRing(tmp_path / "keys.txt", 0.0)
    (tmp_path / "..data_tmp").symlink_to("..new")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert ring.name_of([f"Bearer {KEY[::-1]}".encode()], 2.0) == "alice"
    with pytest.raises(RequestError):
        ring.name_of([f"Bearer {KEY}".encode()], 2.1)


@pytest.mark.parametrize("content", [b"", b"bad line\n", b"\xff\xfe", None])
def test_a_file_that_has_become_useless_leaves_the_old_keys(tmp_path, ring, content):
    path = tmp_path / "keys"
    path.unlink() if content is None else path.write_bytes(content)
    assert ring.name_of([f"Bearer {KEY}".encode()], 5.0) == "alice"


def test_a_useless_file_is_refused_at_the_start(tmp_path):
    with pytest.raises(BadKeyFile, match="No such file"):
        KeyRing(tmp_path / "nope", 0.0)


def test_new_keys_are_long_distinct_and_tell_a_cut_copy():
    made = {keys.new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"fx_[0-9a-f]{48}", key) for key in made)


def test_keys_are_only_ever_looked_up_by_their_digest(ring):
    assert ring._keys == {hashlib.sha256(KEY.encode()).digest(): "alice"}
    assert [name for name, value in vars(ring).items() if KEY in repr(value)] == []


def test_a_wrong_key_takes_as_long_whichever_byte_is_wrong(ring):
    """Two samples of 4,000, in turns; a machine that is busy may spoil a round, a leak spoils all of them."""

    def took_ns(field: bytes) -> int:
        began = time.perf_counter_ns()
        ring._name(field)
        return time.perf_counter_ns() - began

    def differ() -> bool:
        first, last = f"Bearer x{KEY[1:]}".encode(), f"Bearer {KEY[:-1]}x".encode()
        samples: tuple[list[int], list[int]] = ([], [])
        for number in range(8000):
            samples[number % 2].append(took_ns(first if number % 2 == 0 else last))
        # The slowest tenth are interruptions.
        a, b = (sorted(sample)[:3600] for sample in samples)
        error = ((statistics.variance(a) + statistics.variance(b)) / 3600) ** 0.5
        return abs(statistics.mean(a) - statistics.mean(b)) > max(2.58 * error, 20.0)

    assert not all(differ() for _ in range(5))
