"""How claims are kept and told; what is claimed is checked by `make claims`, which takes an hour."""

from pathlib import Path

import pytest
import torch

from RegistrationNetLib.losses.similarity import SSD
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.training import learning as learning_module
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.validation import Look
from Testing.claims import __main__ as report
from Testing.claims import setting as setting_module
from Testing.claims.gradicon import NEVER, first_step
from Testing.claims.setting import Claim, Learnt, Setting, Skipped
from Testing.claims.small_unet import SmallUNet
from Testing.training.tiny import tiny_network


def seen(*, dice: float, folded_percent: float = 0.0) -> Look:
    return Look(0, 0, 0, 0, dice, 0.4, folded_percent, 0)


def claim(name: str, *held: bool) -> Claim:
    return Claim(
        paper=f"paper of {name}", sentence="it is so.", checked="in small.", columns=("a", "b"), rows=[("1", "2")],
        held=[(f"condition {place}", one) for place, one in enumerate(held)], remark="as expected",
    )  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which claims were checked, in their order: that of ICON holds, that of CARL does not, and that of NePhi is skipped."""
    asked: list[str] = []

    def checked(name: str, setting: Setting) -> Claim | str:  # noqa: ARG001
        asked.append(name)
        return {"icon": claim("icon", True, True), "carl": claim("carl", True, False)}.get(name, "no time for it")

    monkeypatch.setattr(report, "checked", checked)
    return asked


@pytest.mark.usefixtures("calls")
def test_the_document_tells_what_held_and_what_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "claims.md"
    assert report.main(["--only", "icon", "--out", str(out)]) == 0
    assert report.main(["--only", "carl", "nephi", "--out", str(out)]) == 1
    text = out.read_text(encoding="utf-8")
    assert "| icon | held |" in text, "what was checked before is still told"
    assert "| carl | **did not hold**: 1 of 2 conditions did |" in text
    assert "| nephi | not checked: no time for it |" in text
    assert "- **did not hold**: condition 1" in text
    assert "as expected" in text
    assert "nothing has learnt" not in text
    capsys.readouterr()


def test_a_run_that_was_cut_goes_on_with_what_is_left(
    calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "claims.md")
    report.main(["--only", "icon", "--out", out])
    report.main(["--only", "icon", "carl", "--go-on", "--out", out])
    assert calls == ["icon", "carl"]
    report.main(["--only", "icon", "--out", out])
    assert calls == ["icon", "carl", "icon"]
    capsys.readouterr()


@pytest.mark.usefixtures("calls")
def test_a_quick_run_says_that_it_means_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--quick", "--only", "carl", "--out", str(tmp_path / "claims.md")]) == 0
    assert "no figure means anything" in (tmp_path / "claims.md").read_text(encoding="utf-8")
    capsys.readouterr()


def test_missing_slices_are_told(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="does not hold the brain slices"):
        Setting(1.0, tmp_path, tmp_path).brains()


def test_the_goal_is_reached_where_dice_is_high_and_folds_are_few() -> None:
    curve = [(25, seen(dice=0.5)), (50, seen(dice=0.9, folded_percent=3.0)), (75, seen(dice=0.9)), (100, seen(dice=0.95))]
    assert first_step(curve, 0.85) == 75
    assert first_step(curve, 0.99) == NEVER


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting_module, "KEEP_EVERY", 2)
    pairs, loss = AnatomyPairs((16, 16), classes=3), GradICONLoss(SSD())

    def learnt(folder: str, steps: int, **options: bool) -> Learnt:
        setting = Setting(1.0, tmp_path, runs=tmp_path / folder, said=lambda _: None, **options)
        return setting.learnt("one", tiny_network, loss, pairs, steps=steps, batch=1, look_every=2)

    whole = learnt("whole", 4)
    steps = iter(range(3))

    def dies(*arguments: object) -> object:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return drawn(*arguments)  # type: ignore[arg-type]

    drawn = learning_module.drawn_batch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learning_module, "drawn_batch", dies)
        learnt("cut", 4)
    again = learnt("cut", 4, goes_on=True)
    assert again.curve == whole.curve
    assert again.seen == whole.seen


@pytest.mark.parametrize("shape", [(48, 48), (33, 50)])
def test_the_small_network_is_the_identity_before_it_learns(shape: tuple[int, int]) -> None:
    network, images = SmallUNet(), torch.rand(2, 2, 1, *shape)
    assert torch.equal(network(*images), torch.zeros(2, 2, *shape))
    network(*images).sum().backward()
    assert float(network.last.weight.grad.abs().max()) > 0
