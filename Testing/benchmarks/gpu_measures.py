"""What `gpu` measures on the card, step by step: `measured(name)` in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from RegistrationNetLib.memory import FULL
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from Testing.models.layers.published import randomize, smooth_pair

MOST_RUNS, MOST_SECONDS = 5, 10.0
Row = dict[str, Any]
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Shapes of the images and numbers of steps."""

    gradicon: tuple[int, ...] = (175,) * 3
    gradicon_reference: tuple[int, ...] = (175,) * 3
    head: tuple[int, ...] = (181, 217, 181)
    carl: tuple[int, ...] = (175,) * 3
    unicarl: tuple[int, ...] = (160,) * 3
    constricon: tuple[int, ...] = (128,) * 3
    nephi: tuple[int, ...] = (256,) * 3
    network_steps: int = 50
    reference_steps: int = 10
    fit_steps: int | None = None


TINY = Sizes(
    gradicon=(40, 36), gradicon_reference=(66, 66, 66), head=(30, 32, 28), carl=(24, 28), unicarl=(72, 80), constricon=(20, 18), nephi=(24, 22, 20),
    network_steps=1, reference_steps=1, fit_steps=1,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Where the work is done, on what sizes."""

    device: torch.device
    sizes: Sizes
    most_runs: int


def measured(name: str, *, is_rehearsal: bool) -> list[Row]:
    """The rows of the step `name`."""
    setting = Setting(torch.device("cpu"), TINY, 1) if is_rehearsal else Setting(torch.device("cuda"), Sizes(), MOST_RUNS)
    torch.manual_seed(0)
    return MEASURES[name](setting)


def timed(work: Work, setting: Setting, label: str, *, note: str = "", warm_ups: int = 1) -> Row:
    """Median seconds of `work` after `warm_ups`, by events of the device where it has them, and the peak of its allocator."""
    is_cuda = setting.device.type == "cuda"
    for _ in range(warm_ups if is_cuda else 0):
        work()
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    runs: list[float] = []
    while len(runs) < setting.most_runs and (not runs or sum(runs) < MOST_SECONDS):
        runs.append(_seconds_on_card(work) if is_cuda else _seconds(work))
    peak_mb = torch.cuda.max_memory_allocated() / 2**20 if is_cuda else None
    return {"setting": label, "seconds": statistics.median(runs), "runs": len(runs), "peak_mb": peak_mb, "note": note}


def _seconds(work: Work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _seconds_on_card(work: Work) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


@contextmanager
def exact_convolutions() -> Any:
    """Inside, cuDNN may not shorten the factors of single precision to 10 bits (TF32), as torch lets it by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def images(shape: Sequence[int], setting: Setting) -> tuple[Tensor, Tensor]:
    moving, fixed = smooth_pair(shape)
    return moving.to(setting.device), fixed.to(setting.device)


def ready(network: nn.Module, setting: Setting) -> nn.Module:
    """`network` with random weights, on the device."""
    randomize(network, displacement=0.004)
    return network.eval().requires_grad_(False).to(setting.device)


def prediction(network: nn.Module, pair: tuple[Tensor, Tensor]) -> Callable[[], list[Tensor]]:
    """Both maps on the lattice."""
    moving, fixed = pair

    @torch.no_grad()
    def work() -> list[Tensor]:
        maps = both_ways(network, moving, fixed)
        return [mapped_lattice(one, fixed.shape[2:], fixed) for one in (maps.moving_from_fixed, maps.fixed_from_moving)]

    return work


def precisions(network: nn.Module, shape: Sequence[int], setting: Setting, kinds: Sequence[str]) -> list[Row]:
    """A row for each of `kinds`, with how far its maps lie from those of exact single precision."""
    work = prediction(network, images(shape, setting))
    with exact_convolutions():
        expected = work()
    rows = []
    for kind in kinds:
        with PRECISIONS[kind](setting.device):
            away = max(float((one - other).abs().max()) for one, other in zip(work(), expected, strict=True))
            label = f"pair, both ways, {'×'.join(map(str, shape))}, {kind}"
            rows.append(timed(work, setting, label, note=f"{away:.1e} of the cube from exact fp32"))
    return rows


PRECISIONS: dict[str, Callable[[torch.device], Any]] = {
    "fp32 as torch does it (TF32)": lambda _: nullcontext(),
    "fp32": lambda _: exact_convolutions(),
    "fp16": lambda device: torch.autocast(device.type, dtype=torch.float16),
    "bf16": lambda device: torch.autocast(device.type, dtype=torch.bfloat16),
}
TWO = ("fp32 as torch does it (TF32)", "fp16")


def unigradicon(setting: Setting) -> list[Row]:
    from RegistrationNetLib.models.gradicon import gradicon_network

    shape = setting.sizes.gradicon
    return precisions(ready(gradicon_network(len(shape)), setting), shape, setting, tuple(PRECISIONS))


def carl(setting: Setting, composition: str = "final_final") -> list[Row]:
    from RegistrationNetLib.models.carl import carl_network

    shape = setting.sizes.carl if composition == "final_final" else setting.sizes.unicarl
    return precisions(ready(carl_network(composition, dim=len(shape)), setting), shape, setting, TWO)


def constricon(setting: Setting) -> list[Row]:
    from RegistrationNetLib.models.constricon import constricon_network

    shape = setting.sizes.constricon
    return precisions(ready(constricon_network(len(shape)), setting), shape, setting, TWO)


def network_refinement(setting: Setting) -> list[Row]:
    """uniGradICON's, as published; with everything kept for the gradient, and with steps made anew."""
    from RegistrationNetLib.losses.direction import Side, both_directions
    from RegistrationNetLib.memory import RECOMPUTED, sparingly
    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.models.gradicon import gradicon_network
    from RegistrationNetLib.registration.network_refinement import network_options, refine_network

    shape, steps = setting.sizes.gradicon, setting.sizes.network_steps
    network = ready(gradicon_network(len(shape)), setting)
    moving, fixed = images(shape, setting)
    options = network_options(card_named("unigradicon"), "lncc", steps=steps)
    taken: list[int] = []

    def work() -> None:
        directions = both_directions(Side(fixed), Side(moving), options.directions(1.0))
        taken.append(refine_network(network, directions, options, report=lambda _: None).steps)

    rows = []
    for way in (FULL, RECOMPUTED):
        in_this_way = partial(sparingly, (way,), setting.device, work, remedy="")
        row = timed(in_this_way, once(setting), way.name, warm_ups=0)  # so many steps warm up by themselves
        rows.append({**row, "note": f"{taken[-1]} steps and the maps afterwards"})
    return rows


def once(setting: Setting) -> Setting:
    """For work of many steps, which is done once."""
    return replace(setting, most_runs=1)


def direct(setting: Setting) -> list[Row]:
    """The refinement of the field between two heads alone; and a whole registration, from the images to the transforms."""
    import SimpleITK as sitk

    from RegistrationNetLib import register
    from RegistrationNetLib.geometry.space import grid_of
    from RegistrationNetLib.io.inputs import checked_pair
    from RegistrationNetLib.quality.phantom import head_phantom
    from RegistrationNetLib.registration.field_refinement import FieldOptions, refine_field
    from RegistrationNetLib.registration.options import checked_options
    from RegistrationNetLib.registration.prepare import prepared_pair

    steps = setting.sizes.fit_steps
    fixed, moving = (head_phantom(setting.sizes.head, (1.0,) * 3, seed).image for seed in (0, 1))
    options = checked_options("direct", modalities=("mr", "mr"), steps=steps)
    pair = checked_pair((fixed, moving), modalities=("mr", "mr"), masks=(None, None), labels=(None, None))
    one, other = (image.to(setting.device) for image in prepared_pair(pair, options.preparation))
    other = replace(other, grid=one.grid)
    shape = "×".join(map(str, grid_of(fixed).shape))
    settings = options.settings
    assert isinstance(settings, FieldOptions)
    alone = timed(lambda: refine_field(one, other, settings, lambda _: None), setting, f"refinement of the field, {shape}")
    reports: list[dict[str, Any]] = []

    def registered() -> None:
        result = register(
            sitk.Image(fixed), sitk.Image(moving), model="direct", steps=steps, fixed_modality="mr", moving_modality="mr",
            device=setting.device.type,
        )  # fmt: skip
        reports.append(result.report())

    whole = timed(registered, once(setting), f"whole registration, {shape}")
    seconds = {name: round(value, 2) for name, value in reports[-1]["seconds"].items()}
    return [alone, {**whole, "note": f"seconds of the stages: {seconds}"}]


def nephi(setting: Setting) -> list[Row]:
    """The pairwise fit, and the writing down of its map."""
    import numpy as np

    from RegistrationNetLib.geometry.space import Grid
    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.registration.measures import FIELD_MEASURES
    from RegistrationNetLib.registration.nephi_fit import implicit_options, levels_for, refine_implicit
    from RegistrationNetLib.registration.prepare import Prepared

    shape = setting.sizes.nephi
    grid = Grid(shape, np.eye(len(shape) + 1))
    moving, fixed = (Prepared(one, grid) for one in images(shape, setting))
    options = implicit_options(card_named("nephi").refine, FIELD_MEASURES["lncc"], steps=setting.sizes.fit_steps)
    row = timed(
        lambda: refine_implicit(fixed, moving, options, lambda _: None).fields(),
        once(setting), f"fit and both maps, {'×'.join(map(str, shape))}", warm_ups=0,
    )  # fmt: skip
    return [{**row, "note": f"{sum(level.steps for level in levels_for(grid, options))} steps"}]


def reference_pair(network: Any, shape: Sequence[int], setting: Setting, *, gives_both: bool = False) -> list[Row]:
    """The published package's own way to both maps, with the same kind of weights."""
    moving, fixed = images(shape, setting)
    network.identity_map.isIdentity = True

    @torch.no_grad()
    def work() -> list[Tensor]:
        maps = network.net(moving, fixed) if gives_both else (network.regis_net(moving, fixed), network.regis_net(fixed, moving))
        return [one(network.identity_map) for one in maps]

    label = f"pair, both ways, {'×'.join(map(str, shape))}, {TWO[0]}"
    return [timed(work, setting, label)]


def reference_gradicon(setting: Setting) -> Any:
    """The published network with its loss."""
    from Testing.models.published_carl import available

    shape = setting.sizes.gradicon_reference
    network = available("unigradicon").make_network([1, 1, *shape], include_last_step=True)
    randomize(network.regis_net, displacement=0.004)
    return network.eval().to(setting.device)


def unigradicon_reference(setting: Setting) -> list[Row]:
    return reference_pair(reference_gradicon(setting), setting.sizes.gradicon_reference, setting)


def network_refinement_reference(setting: Setting) -> list[Row]:
    """Adam on the package's loss, as its own instance optimization does."""
    network, steps = reference_gradicon(setting), setting.sizes.reference_steps
    moving, fixed = images(setting.sizes.gradicon_reference, setting)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-5)

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            network(moving, fixed).all_loss.backward()
            optimizer.step()

    row = timed(work, once(setting), "as published", warm_ups=0)
    return [{**row, "note": f"{steps} steps"}]


def carl_reference(setting: Setting, composition: str = "final_final") -> list[Row]:
    from Testing.models.published_carl import on_the_cpu, published

    shape = setting.sizes.carl if composition == "final_final" else setting.sizes.unicarl
    network = published(composition, shape).to(setting.device)
    with on_the_cpu():
        return reference_pair(network, shape, setting)


def constricon_reference(setting: Setting) -> list[Row]:
    from Testing.models.published_constricon import whole

    shape = setting.sizes.constricon
    network: Any = whole(len(shape))
    network.assign_identity_map([1, 1, *shape])
    randomize(network.eval(), displacement=0.004)
    return reference_pair(network.to(setting.device), shape, setting, gives_both=True)


MEASURES: dict[str, Callable[[Setting], list[Row]]] = {
    "unigradicon": unigradicon,
    "network refinement": network_refinement,
    "direct": direct,
    "nephi": nephi,
    "carl": carl,
    "unicarl": partial(carl, composition="unicarl"),
    "constricon": constricon,
    "unigradicon, reference": unigradicon_reference,
    "network refinement, reference": network_refinement_reference,
    "carl, reference": carl_reference,
    "unicarl, reference": partial(carl_reference, composition="unicarl"),
    "constricon, reference": constricon_reference,
}
