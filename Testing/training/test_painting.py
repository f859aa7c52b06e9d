"""Images painted from label maps: seeded, true to the map that they come with, and changed by every option."""

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import Cancelled, InputError
from RegistrationNetLib.geometry.deformation import identity_points, jacobian_determinant, sample
from RegistrationNetLib.training.label_maps import FILLED, LabelMaps, files_of, read_label_maps
from RegistrationNetLib.training.painting import PaintedPairs, PaintingOptions, random_turn
from RegistrationNetLib.training.validation import overlap

from .tiny import write_label_maps

SHAPE = (40, 48)
CLEAN = PaintingOptions(shapes=0, one_contrast=True, resolution=1, bias=0, noise=0, turn_degrees=0, shift=0, scale=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def maps(tmp_path: Path) -> LabelMaps:
    return read_label_maps(write_label_maps(tmp_path, 3), SHAPE)[0]


def test_label_maps_are_numbered_in_common_and_lie_in_the_middle_of_cubic_voxels(tmp_path: Path) -> None:
    files = write_label_maps(tmp_path, 2)
    image = sitk.ReadImage(str(files[1]))
    image.SetSpacing((3.0, 0.5))
    sitk.WriteImage(image, str(files[1]))
    found, _ = read_label_maps(files, SHAPE)
    assert found.names == (0, 3, 40, 1001)
    for one, tall in zip(found.maps, (18 / 24, 18 * 0.5 / (24 * 3)), strict=True):
        assert (one.shape, one.dtype) == ((1, 1, *SHAPE), torch.int16)
        assert one.unique().tolist() == [0, 1, 2, 3]
        inside = one[0, 0].nonzero()
        low, high = inside.amin(0), inside.amax(0)
        assert torch.allclose((low + high) / 2, (torch.tensor(SHAPE) - 1) / 2, atol=1)
        edges = (high - low + 1).tolist()
        assert max(edge / size for edge, size in zip(edges, SHAPE, strict=True)) == pytest.approx(FILLED, abs=0.04)
        assert edges[0] / edges[1] == pytest.approx(tall, abs=0.08)


def test_label_maps_of_other_axes_come_to_the_same(tmp_path: Path) -> None:
    (file,) = write_label_maps(tmp_path, 1, size=(14, 12, 10))
    image = sitk.ReadImage(str(file))
    turned = sitk.PermuteAxes(sitk.Flip(image, [True, False, False]), [2, 0, 1])
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    one, other = read_label_maps([file, tmp_path / "turned.nii.gz"], (12, 12, 12))[0].maps
    assert torch.equal(one, other)


def test_labels_that_leave_no_background_have_it_around_them(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8) + 4, str(tmp_path / "full.nii.gz"))
    found, _ = read_label_maps([tmp_path / "full.nii.gz"], (20, 20))
    assert found.names == (0, 4)
    assert found.maps[0][0, 0, 0, 0] == 0
    assert int(found.maps[0].sum()) == 16 * 16


def test_files_are_named_by_patterns_and_folders(tmp_path: Path) -> None:
    files = write_label_maps(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no map")
    assert files_of([tmp_path]) == files
    assert files_of([tmp_path / "m[12]*", tmp_path / "m1.nii.gz"]) == files[1:]
    with pytest.raises(InputError, match=r"No label map is named .*x\*; .*leave label_maps out to paint random shapes"):
        files_of([tmp_path / "x*"])


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as an image"),
        (lambda path: sitk.WriteImage(sitk.Image(20, 16, sitk.sitkUInt8), str(path)), "is 0 everywhere; a label map needs"),
        (lambda path: sitk.WriteImage(sitk.Image(20, 16, 9, sitk.sitkUInt8) + 1, str(path)), "3 dimensions, and the network 2"),
        (lambda path: sitk.WriteImage(sitk.Image(20, 16, sitk.sitkFloat32) + 0.5, str(path)), "not whole numbers"),
        (lambda path: path.unlink(), "There is no file"),
    ],
)
def test_label_maps_that_cannot_be_used_stop_or_are_skipped_as_asked(tmp_path: Path, spoil: object, match: str) -> None:
    files = write_label_maps(tmp_path, 2)
    spoil(files[0])  # type: ignore[operator]
    with pytest.raises(InputError, match=rf"(?s)m0\.nii\.gz.*{match}|{match}.*m0\.nii\.gz"):
        read_label_maps(files, SHAPE)
    found, skipped = read_label_maps(files, SHAPE, unreadable="skip")
    assert len(found.maps) == 1
    assert [one.image for one in skipped] == files[:1]
    with pytest.raises(InputError, match="must be stop or skip; got 'guess'"):
        read_label_maps(files, SHAPE, unreadable="guess")
    with pytest.raises(InputError, match="No label map can be read; at least one is needed. The first: "):
        read_label_maps(files[:1], SHAPE, unreadable="skip")


@pytest.mark.parametrize("count", [2**15, 2**15 + 1])
def test_as_many_labels_as_their_numbers_tell_apart_are_taken(tmp_path: Path, count: int) -> None:
    labels = np.arange(182 * 182, dtype=np.uint16).reshape(182, 182)
    sitk.WriteImage(sitk.GetImageFromArray(np.where(labels < count, labels, 0)), str(tmp_path / "many.mha"))
    if count > 2**15:
        with pytest.raises(InputError, match="have 32769 different labels, .* 32768 are the most. Leave out .*, or join labels"):
            read_label_maps([tmp_path / "many.mha"], (260, 260))
        return
    (found,) = read_label_maps([tmp_path / "many.mha"], (260, 260))[0].maps
    assert int(found.min()) == 0
    assert int(found.max()) == 2**15 - 1


def test_reading_label_maps_can_be_stopped(tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        if fraction > 0:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        read_label_maps(write_label_maps(tmp_path, 2), SHAPE, report=stop)


@pytest.mark.parametrize("shape", [SHAPE, (12, 14, 16)])
def test_a_seed_gives_one_pair_and_another_seed_another(shape: tuple[int, ...]) -> None:
    pairs = PaintedPairs(shape, PaintingOptions(cut=0.3))
    one, again, other = (pairs.draw(seeded(seed)) for seed in (0, 0, 1))
    for name in ("values", "mask", "labels"):
        assert torch.equal(getattr(one.fixed, name), getattr(again.fixed, name))
    assert not torch.equal(one.fixed.values, other.fixed.values)
    for example in (one.fixed, one.moving):
        assert example.labels is not None
        assert example.mask is not None
        assert example.values.shape == example.labels.shape == example.mask.shape == (1, 1, *shape)
        assert 0 <= float(example.values.min()) < float(example.values.max()) <= 1
        assert float(example.values[~example.mask].abs().sum()) == 0
    assert torch.equal(pairs.first(1)[0].moving.values, one.moving.values)


@pytest.mark.parametrize("shape", [(64, 80), (32, 36, 40)])
@pytest.mark.parametrize("degrees", [0, 60, 180])
def test_the_known_map_takes_moving_onto_fixed_however_they_are_turned(shape: tuple[int, ...], degrees: float) -> None:
    options = replace(CLEAN, classes=4, turn_degrees=degrees, shift=0.04, scale=0.1)
    for seed in range(2):
        pair, moving_from_fixed, fixed_from_moving = PaintedPairs(shape, options).known(seeded(seed))
        lattice = identity_points(shape, pair.fixed.values)
        points = moving_from_fixed(lattice)
        assert pair.fixed.labels is not None
        body = (pair.fixed.labels > 0) & ((points >= 0) & (points <= 1)).all(1, keepdim=True)
        assert overlap(pair, points) > 0.78
        difference = (sample(pair.moving.values, points) - pair.fixed.values).abs()[body].mean()
        assert float(difference) < 0.35 * float(pair.fixed.values[body].std())
        error = (fixed_from_moving(points) - lattice).abs().amax(1, keepdim=True)[body]
        assert float(error.mean()) < 0.2 / max(shape)
        assert float(jacobian_determinant(points).min()) > 0


def test_a_pair_of_one_map_shows_its_labels_in_contrasts_of_their_own(maps: LabelMaps) -> None:
    pair = PaintedPairs(SHAPE, replace(CLEAN, one_contrast=False, displacement=0), maps).draw(seeded())
    assert pair.fixed.labels is not None
    assert torch.equal(pair.fixed.labels, pair.moving.labels)
    for label in (1, 2, 3):
        here = pair.fixed.labels == label
        means = [float(one.values[here].median()) for one in (pair.fixed, pair.moving)]
        assert abs(means[0] - means[1]) > 1e-3
    same = PaintedPairs(SHAPE, replace(CLEAN, displacement=0), maps).draw(seeded())
    torch.testing.assert_close(same.fixed.values, same.moving.values)


def test_pairs_are_the_same_in_another_process(maps: LabelMaps) -> None:
    pairs = PaintedPairs(SHAPE, PaintingOptions(cut=0.2), maps)
    one, other = (source.draw(seeded(3)) for source in (pairs, pickle.loads(pickle.dumps(pairs))))
    assert torch.equal(one.fixed.values, other.fixed.values)


def test_a_pair_of_two_maps_shows_two_that_share_labels(maps: LabelMaps) -> None:
    options = replace(CLEAN, displacement=0, two_maps=1.0)
    areas = [int((one > 0).sum()) for one in maps.maps]
    for pair in PaintedPairs(SHAPE, options, maps).first(6):
        shown = []
        for one in (pair.fixed, pair.moving):
            assert one.labels is not None
            shown.append(min(range(3), key=lambda place, one=one: abs(areas[place] - int((one.labels > 0).sum()))))
            assert one.labels.unique().tolist() == [0, 1, 2, 3]
        assert not torch.equal(pair.fixed.labels, pair.moving.labels)
        assert len(set(shown)) == 2
    alone = LabelMaps(maps.names, maps.maps[:1])
    (pair,) = PaintedPairs(SHAPE, options, alone).first(1)
    assert torch.equal(pair.fixed.labels, pair.moving.labels)


def test_random_shapes_take_their_share_of_the_pairs(maps: LabelMaps) -> None:
    pairs = PaintedPairs(SHAPE, replace(CLEAN, shapes=0.4, classes=9), maps).first(60)
    shapes = sum(bool(pair.fixed.labels.max() > 3) for pair in pairs if pair.fixed.labels is not None)
    assert 12 <= shapes <= 36
    assert {int(pair.fixed.labels.max()) > 3 for pair in PaintedPairs(SHAPE, CLEAN, maps).first(9)} == {False}  # type: ignore[union-attr]
    assert PaintedPairs(SHAPE, CLEAN).known(seeded()).pair.fixed.labels is not None


def test_every_option_changes_the_pairs(maps: LabelMaps) -> None:
    options = {
        "shapes": 1.0, "two_maps": 1.0, "displacement": 0.02, "roughness": 0.4, "turn_degrees": 40.0, "shift": 0.1, "scale": 0.2,
        "one_contrast": False, "resolution": 4.0, "cut": 0.8, "bias": 0.5, "noise": 0.2,
    }  # fmt: skip
    plain = PaintedPairs(SHAPE, CLEAN, maps).first(4)
    for name, value in options.items():
        changed = PaintedPairs(SHAPE, replace(CLEAN, **{name: value}), maps).first(4)
        pairs = zip(changed, plain, strict=True)
        assert not all(torch.equal(one.moving.values, other.moving.values) for one, other in pairs), name
    shapes = [PaintedPairs(SHAPE, replace(CLEAN, classes=classes)).draw(seeded()).fixed.values for classes in (4, 5)]
    assert not torch.equal(*shapes)


def test_long_voxels_blur_along_their_axis_alone_or_along_all() -> None:
    pairs = PaintedPairs((48, 48), PaintingOptions(resolution=6))
    checkered = (torch.arange(48)[:, None] + torch.arange(48)).remainder(2).float()[None, None]
    kept = set()
    for seed in range(24):
        seen = pairs._measured(checkered, seeded(seed))
        rows, columns = (float(seen.diff(dim=axis).abs().mean()) > 0.5 for axis in (2, 3))
        kept.add((rows, columns, float((seen - checkered).abs().max()) < 1e-5))
    assert (True, True, True) in kept, "some images keep the resolution of the lattice"
    assert (False, False, False) in kept
    line = torch.zeros(1, 1, 48, 48)
    line[..., 20:28, :] = 1  # a slab: blurred across, or not at all
    blurs = {round(float(pairs._measured(line, seeded(seed))[0, 0, 19, 24]), 2) for seed in range(24)}
    assert 0.0 in blurs
    assert max(blurs) > 0.05


def test_what_is_left_out_is_a_slab_at_the_ends_of_one_axis() -> None:
    pairs = PaintedPairs((20, 24, 28), PaintingOptions(cut=0.5))
    shares, axes = [], set()
    for seed in range(30):
        inside = pairs._field_of_view(seeded(seed))[0, 0]
        shares.append(1 - float(inside.float().mean()))
        lines = [inside.amax(tuple(other for other in range(3) if other != axis)) for axis in range(3)]
        cut = [axis for axis, line in enumerate(lines) if not bool(line.all())]
        assert len(cut) <= 1
        axes |= set(cut)
        for line in lines:
            assert int(line.diff().sum()) <= 2
    assert axes == {0, 1, 2}
    assert 0.35 < max(shares) <= 0.55
    assert min(shares) < 0.15


@pytest.mark.parametrize("dim", [2, 3])
def test_turns_are_rotations_by_up_to_their_angle(dim: int) -> None:
    angles = []
    for seed in range(40):
        turn = random_turn(dim, math.radians(70), seeded(seed))
        torch.testing.assert_close(turn @ turn.T, torch.eye(dim), atol=1e-5, rtol=0)
        assert float(torch.linalg.det(turn)) == pytest.approx(1, abs=1e-5)
        angles.append(math.degrees(math.acos((float(turn.trace()) - (dim - 2)) / 2)))
    assert max(angles) <= 70.01
    assert max(angles) > 60
    assert np.mean(angles) == pytest.approx(35, abs=10)


def test_a_pose_turns_bodies_and_not_the_unit_cube() -> None:
    pairs = PaintedPairs((21, 41), replace(CLEAN, turn_degrees=90))
    edges_vox = torch.tensor([20.0, 40.0]).view(1, 2, 1)
    points = torch.tensor([[0.5, 0.5], [0.7, 0.5], [0.5, 0.6]]).T[None]
    for seed in range(5):
        moved = pairs._pose(seeded(seed))(points)
        torch.testing.assert_close(moved[..., 0], points[..., 0])
        lengths = ((moved - moved[..., :1]) * edges_vox).norm(dim=1)
        torch.testing.assert_close(lengths, torch.tensor([[0.0, 4.0, 4.0]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PaintedPairs((48,)), r"two or three sizes of at least 8 voxels; got \[48\]"),
        (lambda: PaintedPairs((48, 4)), r"two or three sizes of at least 8 voxels; got \[48, 4\]"),
        (lambda: PaintingOptions(classes=1), "classes is out of range"),
        (lambda: PaintingOptions(roughness=0), "roughness is out of range"),
        (lambda: PaintingOptions(resolution=0.5), "resolution is out of range; it must be at least 1"),
        (lambda: PaintingOptions(noise=-1), "noise is out of range"),
        (lambda: PaintingOptions(shapes=1.5), "shapes is out of range; it must be at least 0 and at most 1"),
        (lambda: PaintingOptions(turn_degrees=200), "turn_degrees is out of range"),
        (lambda: PaintingOptions(cut=0.9), "cut is out of range"),
    ],
)
def test_options_out_of_range_are_refused(make: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()  # type: ignore[operator]
