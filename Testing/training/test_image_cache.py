"""Prepared images on disk: what was put comes back bit for bit, damaged entries do not, and the folder keeps its size."""

import io
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from RegistrationNetLib.errors import OutputError
from RegistrationNetLib.training import image_cache
from RegistrationNetLib.training.image_cache import SUFFIX, ImageCache
from RegistrationNetLib.training.pairs import Example

SHAPE = (1, 1, 8, 9)


def example(seed: int = 0, **parts: torch.Tensor) -> Example:
    return Example(torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)), **parts)


def entries(cache: ImageCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


@pytest.mark.parametrize("labels", [[0, 1], [0, 40_000_001], [-3, 200], [0, 2**40]])
def test_an_image_comes_back_with_its_mask_and_labels(tmp_path: Path, labels: list[int]) -> None:
    cache = ImageCache(tmp_path / "cache", 1)
    assert cache.get("a") is None
    put = example(mask=torch.rand(SHAPE) > 0.5, labels=torch.tensor(labels)[torch.randint(2, SHAPE)])
    cache.put("a", put)
    cache.put("ba5e", example(1))
    found, bare = cache.get("a"), cache.get("ba5e")
    assert found is not None
    assert bare is not None
    for one, other in zip(vars(found).values(), vars(put).values(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert bare.mask is bare.labels is None
    assert entries(cache) == ["a.prepared.npz", "ba5e.prepared.npz"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "replaced", "encrypted", "array", "text"])
def test_a_damaged_entry_is_removed_and_made_anew(tmp_path: Path, damage: str) -> None:
    cache = ImageCache(tmp_path, 1)
    cache.put("a", example())
    content = bytearray((tmp_path / "a.prepared.npz").read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    if damage == "encrypted":
        content[content.index(b"PK\x01\x02") + 8] |= 1
    array, text = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    np.savez(text, values=np.array(["text"]))
    spoilt = {"cut": content[:-40], "emptied": b"", "replaced": b"no archive", "array": array.getvalue(), "text": text.getvalue()}
    (tmp_path / "a.prepared.npz").write_bytes(spoilt.get(damage, content))
    assert cache.get("a") is None
    assert entries(cache) == []
    cache.put("a", example())
    assert cache.get("a") is not None


def test_what_was_not_read_for_longest_makes_room(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 1)
    cache.put("9", example())
    size = (tmp_path / "9.prepared.npz").stat().st_size
    (tmp_path / "9.prepared.npz").unlink()
    cache = ImageCache(tmp_path, 3.9 * size / 1e9)
    for number, name in enumerate("abc"):
        cache.put(name, example(number))
        os.utime(tmp_path / f"{name}.prepared.npz", (number, number))
    assert cache.get("a") is not None
    cache.put("d", example(3))
    assert entries(cache) == ["a.prepared.npz", "c.prepared.npz", "d.prepared.npz"]
    ImageCache(tmp_path, 1e-9).put("e", example(4))
    assert len(entries(cache)) == 3, "what is larger than the whole is not kept"


def test_what_others_have_written_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "MEASURED_EVERY", 1)
    caches = [ImageCache(tmp_path, 5e-6) for _ in range(2)]
    for number in range(12):
        caches[number % 2].put(f"{number:x}", example(number))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5000


def test_what_a_killed_process_left_half_written_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    for name, age in ((".writing-left.prepared.npz", 7200), (".writing-young.prepared.npz", 60)):
        (tmp_path / name).write_bytes(bytes(3000))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    ImageCache(tmp_path, 2e-6).put("a", example())
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".writing-young.prepared.npz", "a.prepared.npz"]


def test_files_of_others_in_the_folder_stay_and_do_not_count(tmp_path: Path) -> None:
    theirs = ["scan.npz", ".hidden.npz", "abc.npz", "scan.prepared.npz", ".writing-x.npz", "abc.prepared.npz.txt"]
    for name in theirs:
        (tmp_path / name).write_bytes(bytes(3000))
        os.utime(tmp_path / name, (1, 1))
    for number in range(3):
        ImageCache(tmp_path, 1e-6).put(f"{number}", example(number))
    assert entries(ImageCache(tmp_path, 1)) == sorted([*theirs, "2.prepared.npz"])


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_cache.np, "savez", full)
    with pytest.raises(OutputError, match=r"Cannot write the cache .*No space left on device.*leave `cache` out"):
        ImageCache(tmp_path, 1).put("a", example())
    assert list(tmp_path.iterdir()) == []


def hammered(folder: Path, seed: int) -> None:
    """Put and get the same few entries many times, in a cache that is too small for them."""
    cache = ImageCache(folder, 4e-6)
    for number in range(150):
        key = f"{(number * 7 + seed) % 6}"
        found = cache.get(key)
        assert found is None or torch.equal(found.values, example(int(key)).values)
        cache.put(key, example(int(key)))


@pytest.mark.slow
def test_several_processes_use_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=hammered, args=(tmp_path, seed)) for seed in range(3)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
    assert [one.exitcode for one in processes] == [0, 0, 0]
    assert all(path.name[1:] == SUFFIX for path in tmp_path.iterdir())
