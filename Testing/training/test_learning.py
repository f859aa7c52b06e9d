"""One step and many: the loss of a pair with what comes with it, precision, processes, what must be finite."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from RegistrationNetLib.errors import InputError, RefinementError
from RegistrationNetLib.losses.similarity import LNCC, SSD
from RegistrationNetLib.models.composition import FunctionFromVectorField, both_ways
from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network
from RegistrationNetLib.models.icon import ICONLoss
from RegistrationNetLib.models.layers.unet import TallUNet
from RegistrationNetLib.training.learning import LearningOptions, Objective, drawn_batch, learning, step_random, unets_in
from RegistrationNetLib.training.pairs import Example, Pair, stacked
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.synthetic import AnatomyPairs

from .tiny import SHAPE, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = AnatomyPairs(SHAPE, classes=4)
LOSS = GradICONLoss(LNCC(2))


def drawn(seed: int = 0) -> Pair:
    return PAIRS.draw(torch.Generator().manual_seed(seed))


def learnt(options: LearningOptions, loss: GradICONLoss | ICONLoss = LOSS) -> tuple[Trainee, list[float]]:
    torch.manual_seed(0)
    trainee = Trainee(tiny_network())
    return trainee, [step.total for step in learning(trainee, loss, PAIRS, options)]


def test_the_steps_are_those_of_torchs_adam() -> None:
    options = LearningOptions(steps=3, learning_rate=1e-3)
    trainee, totals = learnt(options)
    torch.manual_seed(0)
    network = tiny_network().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for number, total in enumerate(totals):
        random = step_random(0, number, 0)
        pair = drawn_batch(PAIRS, options, random)
        optimizer.zero_grad()
        terms = Objective(network, LOSS).terms(both_ways(network, pair.moving.values, pair.fixed.values), pair, random)
        terms.total.backward()
        optimizer.step()
        assert float(terms.total.detach()) == pytest.approx(total, abs=1e-6)
    for one, other in zip(trainee.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_pair_without_masks_and_labels_has_the_loss_of_its_method() -> None:
    pair = Pair(Example(drawn().fixed.values), Example(drawn().moving.values))
    with torch.no_grad():
        maps = both_ways(tiny_network(), pair.moving.values, pair.fixed.values)
    for loss in (LOSS, ICONLoss(SSD())):
        terms = Objective(tiny_network(), loss).terms(maps, pair, torch.Generator().manual_seed(1))
        expected = loss(maps, pair.moving.values, pair.fixed.values, generator=torch.Generator().manual_seed(1))
        assert float(terms.total) == float(expected.total)


def test_labels_add_the_dice_loss_of_both_directions() -> None:
    pair = drawn()
    bare = Pair(Example(pair.fixed.values), Example(pair.moving.values))
    network = tiny_network()
    with torch.no_grad():
        maps = both_ways(network, pair.moving.values, pair.fixed.values)
    random = torch.Generator().manual_seed(0)
    without = Objective(network, LOSS).terms(maps, bare, random)
    once, twice = (Objective(network, LOSS, weight).terms(maps, pair, random) for weight in (1.0, 2.0))
    assert 0 < float(once.similarity - without.similarity) < 2
    assert float(twice.similarity - without.similarity) == pytest.approx(
        2 * float(once.similarity - without.similarity), rel=1e-4
    )


def test_what_a_mask_leaves_out_does_not_count() -> None:
    pair = drawn()
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    mask[..., :8, :] = True
    spoilt = pair.fixed.values.clone()
    spoilt[..., 15:, :] = 7.0
    network = tiny_network()
    loss = replace(LOSS, similarity=SSD())

    def total(values: torch.Tensor) -> float:
        masked = Pair(Example(values, mask), Example(pair.moving.values, mask))
        with torch.no_grad():
            maps = both_ways(network, masked.moving.values, pair.fixed.values)
        return float(Objective(network, loss).terms(maps, masked, torch.Generator().manual_seed(0)).total)

    assert total(spoilt) == pytest.approx(total(pair.fixed.values), abs=1e-6)


def test_pairs_without_a_common_class_do_without_dice() -> None:
    pair = drawn()
    other = Pair(replace(pair.fixed, labels=torch.full((1, 1, *SHAPE), 8)), pair.moving)
    assert stacked([pair, pair]).sides()[0].classes is not None
    assert stacked([pair, other]).sides()[0].classes is None


def test_who_lacks_a_mask_counts_everywhere_in_a_batch() -> None:
    pair = drawn()
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    both = stacked([pair, Pair(replace(pair.fixed, mask=mask, labels=None), pair.moving)])
    assert both.fixed.mask is not None
    assert both.fixed.labels is not None
    assert both.fixed.mask.flatten(1).all(1).tolist() == [True, False]
    assert both.fixed.labels[1].max() == 0
    assert both.moving.mask is None


def test_every_option_changes_the_losses() -> None:
    plain = LearningOptions(steps=3, learning_rate=1e-3)
    _, totals = learnt(plain)
    for changed in ({"seed": 1}, {"batch": 2}, {"learning_rate": 1e-2}, {"keep_statistics": True}, {"dice_weight": 2.0}):
        assert learnt(replace(plain, **changed))[1] != totals, changed


def test_kept_statistics_stay() -> None:
    trainee, _ = learnt(LearningOptions(steps=2, keep_statistics=True))
    assert int(trainee.network.state_dict()["net.norm.num_batches_tracked"]) == 0
    trainee, _ = learnt(LearningOptions(steps=2))
    assert int(trainee.network.state_dict()["net.norm.num_batches_tracked"]) == 4  # both directions


def test_the_running_mean_is_that_of_its_formula_and_lends_itself_to_the_network() -> None:
    torch.manual_seed(0)
    trainee = Trainee(tiny_network(), ema=0.6)
    expected: dict[str, torch.Tensor] = {}
    for step in learning(trainee, LOSS, PAIRS, LearningOptions(steps=8, learning_rate=1e-2)):
        now = {name: value.clone() for name, value in trainee.network.state_dict().items()}
        decay = min(0.6, (1 + step.number) / (10 + step.number))
        expected = {name: decay * expected.get(name, value) + (1 - decay) * value for name, value in now.items()}
    own = {name: value.clone() for name, value in trainee.network.state_dict().items()}
    with trainee.averaged():
        inside = trainee.network.state_dict()
        for name in ("net.first.weight", "net.last.bias", "net.norm.running_var"):
            torch.testing.assert_close(inside[name], expected[name])
            assert not torch.equal(inside[name], own[name])
        assert torch.equal(inside["net.norm.num_batches_tracked"], own["net.norm.num_batches_tracked"])
    assert all(torch.equal(value, own[name]) for name, value in trainee.network.state_dict().items())


def test_without_a_running_mean_the_network_itself_is_judged() -> None:
    trainee, _ = learnt(LearningOptions(steps=2, learning_rate=1e-2))
    assert not trainee.averages
    before = trainee.network.get_parameter("net.last.bias").clone()
    with trainee.averaged():
        assert torch.equal(trainee.network.get_parameter("net.last.bias"), before)


def test_training_leaves_the_mode_of_the_network_as_it_was() -> None:
    trainee = Trainee(tiny_network().eval())
    list(learning(trainee, LOSS, PAIRS, LearningOptions(steps=1)))
    assert not trainee.network.training


@torch.no_grad()
@pytest.mark.parametrize(("shape", "is_half"), [((17, 20), True), ((16, 20), False)])
def test_half_precision_is_near_single_and_gives_single(shape: tuple[int, ...], is_half: bool) -> None:
    """On the processor it is left out where torch's gradient would be of memory that nobody wrote."""
    torch.manual_seed(0)
    network = FunctionFromVectorField(TallUNet(2)).eval()
    nn.init.normal_(network.net.lastConv.weight, std=0.1)
    pair = AnatomyPairs(shape, classes=4).draw(torch.Generator().manual_seed(0))
    single = network(pair.moving.values, pair.fixed.values).maps[0].displacement
    with unets_in(network, "bfloat16"):
        half = network(pair.moving.values, pair.fixed.values).maps[0].displacement
    again = network(pair.moving.values, pair.fixed.values).maps[0].displacement
    assert half.dtype == torch.float32
    assert torch.equal(half, single) != is_half
    torch.testing.assert_close(half, single, atol=0.05 * float(single.abs().max()), rtol=0)
    assert torch.equal(again, single)


def test_half_precision_learns() -> None:
    torch.manual_seed(0)
    trainee = Trainee(gradicon_network(2, has_last_step=False))
    before = {name: value.clone() for name, value in trainee.network.state_dict().items()}
    list(learning(trainee, LOSS, AnatomyPairs((40, 40)), LearningOptions(steps=2, precision="bfloat16")))
    after = trainee.network.state_dict()
    assert all(value.dtype == before[name].dtype for name, value in after.items())
    assert not torch.equal(after["netPsi.net.lastConv.weight"], before["netPsi.net.lastConv.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    torch.manual_seed(0)
    trainee = Trainee(tiny_network())
    nn.init.constant_(trainee.network.get_parameter("net.last.bias"), math.nan)
    before = trainee.network.get_parameter("net.first.weight").clone()
    with pytest.raises(RefinementError, match="loss of step 1 is not finite.*Lower the learning rate"):
        list(learning(trainee, LOSS, PAIRS, LearningOptions(steps=2)))
    assert torch.equal(trainee.network.get_parameter("net.first.weight"), before)
    assert trainee.steps == 0


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"steps": -1}, "steps must be a whole number from 0 up; got -1"),
        ({"batch": 0}, "batch must be a whole number from 1 up; got 0"),
        ({"seed": 0.5}, "seed must be a whole number from 0 up; got 0.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0"),
        ({"ema": -0.1}, "ema must be from 0 to below 1; got -0.1"),
        ({"dice_weight": math.nan}, "dice_weight must be 0 or more; got nan"),
        ({"precision": "float8"}, "no precision 'float8'; the precisions are float32, bfloat16"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        LearningOptions(**changed)  # type: ignore[arg-type]


def test_every_seed_step_and_process_draws_for_itself() -> None:
    drawn = {
        float(torch.rand((), generator=step_random(*place))) for place in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0), (0, 1, 0))
    }
    assert len(drawn) == 4
