"""Files are followed however they are written: over, anew, by rename, by link, in place, slowly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flexinfer.local import filewatch
from flexinfer.local.filewatch import FileWatch, Place, places


def overwrite(folder: Path) -> None:
    (folder / "m.yaml").write_text("new")


def rename_over(folder: Path) -> None:
    (folder / "other").write_text("new")
    (folder / "other").replace(folder / "m.yaml")


def remove(folder: Path) -> None:
    (folder / "m.yaml").unlink()


def swap_folder(folder: Path) -> None:
    (folder / "v2").mkdir()
    (folder / "v2" / "linked.yaml").write_text("new")
    (folder / "next").symlink_to("v2")
    (folder / "next").replace(folder / "current")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.yaml").write_text("old")
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "linked.yaml").write_text("old")
    (tmp_path / "current").symlink_to("v1")
    (tmp_path / "linked.yaml").symlink_to("current/linked.yaml")
    return tmp_path


@pytest.fixture(params=["inotify", "looking"])
def way(request) -> dict:
    return {"inotify": request.param == "inotify", "settle_s": 0.1, "poll_s": 0.1}


@pytest.mark.parametrize("change", [overwrite, rename_over, remove, swap_folder])
async def test_a_change_is_told_once(folder, way, change):
    with FileWatch(lambda: [folder / "m.yaml", folder / "linked.yaml"], **way) as watch:
        told = asyncio.ensure_future(watch.settled())
        await asyncio.sleep(0.05)
        assert not told.done()
        change(folder)
        await asyncio.wait_for(told, 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.settled(), 0.4)


async def test_what_comes_while_nobody_waits_is_told_later(folder, way):
    with FileWatch(lambda: [folder / "m.yaml"], **way) as watch:
        overwrite(folder)
        await asyncio.wait_for(watch.settled(), 3)
        rename_over(folder)
        await asyncio.wait_for(watch.settled(), 3)


async def test_a_change_before_the_watch_begins_is_told(folder, way):
    watch = FileWatch(lambda: [folder / "m.yaml"], **way)
    rename_over(folder)
    with watch:
        await asyncio.wait_for(watch.settled(), 3)


async def test_a_file_that_is_being_written_is_left_alone(folder):
    with FileWatch(lambda: [folder / "m.yaml"]) as watch, (folder / "m.yaml").open("w") as file:
        told = asyncio.ensure_future(watch.settled())
        for _ in range(8):
            file.write("x")
            file.flush()
            await asyncio.sleep(0.1)
            assert not told.done()
        await asyncio.wait_for(told, 2)


async def test_other_files_of_the_folder_do_not_count(folder):
    with FileWatch(lambda: [folder / "m.yaml"]) as watch:
        (folder / "up.log").write_text("busy")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.settled(), 0.3)


async def test_a_folder_is_followed_with_all_that_comes_into_it(folder, way):
    manifests = folder / "manifests"
    manifests.mkdir()
    with FileWatch(lambda: sorted(manifests.glob("*.yaml")), folder=manifests, **way) as watch:
        (manifests / "new.yaml").write_text("new")
        await asyncio.wait_for(watch.settled(), 3)


async def test_a_folder_that_comes_back_is_followed_again(folder):
    deep = folder / "deep"
    deep.mkdir()
    with FileWatch(lambda: [deep / "m.yaml"]) as watch:
        deep.rmdir()
        await asyncio.wait_for(watch.settled(), 3)
        deep.mkdir()
        (deep / "m.yaml").write_text("new")
        await asyncio.wait_for(watch.settled(), 5)
        (deep / "m.yaml").write_text("newer")
        await asyncio.wait_for(watch.settled(), 3)


async def test_a_look_can_be_asked_for(folder):
    with FileWatch(lambda: [folder / "m.yaml"]) as watch:
        watch.look()
        await asyncio.wait_for(watch.settled(), 2)


def test_every_link_on_the_way_is_a_place(folder):
    assert places(folder / "linked.yaml")[-3:] == [
        Place(str(folder), "linked.yaml"),
        Place(str(folder), "current"),
        Place(str(folder / "v1"), "linked.yaml"),
    ]


def test_links_in_a_circle_have_an_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(places(tmp_path / "a")) <= filewatch.MAX_LINKS + 1
