"""The recipe's decisions, on scripted scores: what is tried next, what is restored, and when it ends."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from skembed.backbones.tuning.weights import Weights
from skembed.exceptions import TrainingError
from skembed.finetune import recipe as recipe_module
from skembed.finetune.features import TableSource
from skembed.finetune.loop import Settings
from skembed.finetune.network import LinearHead, Network
from skembed.finetune.plan import FitPlan
from skembed.finetune.recipe import Recipe, improves
from skembed.finetune.tasks import Scores
from skembed.inference.reading import Reading
from skembed.probes.linear import Probe, Standardizer
from skembed.strategies import STRATEGIES, Progressive, Stage
from skembed.testing import array_backbone

WIDTH = 8
SETTINGS = Settings(learning_rate=1e-2, batch_size=4)

# -- the plan -----------------------------------------------------------------------------------------------


def _plan(strategy, depth, max_epochs=30, **parameters):
    return STRATEGIES[strategy](**parameters).stages(depth, max_epochs)


@pytest.mark.parametrize(("strategy", "stage"), [
    ("head", Stage("head", 0, 30)),
    ("partial", Stage("top 2 blocks", 2, 30)),
    ("full", Stage("all blocks", 7, 30)),
])  # fmt: skip
def test_strategies_of_one_stage_have_all_the_epochs(strategy, stage):
    parameters = {"n_blocks": 2} if strategy == "partial" else {}
    assert _plan(strategy, 7, **parameters) == [stage]


def test_progressive_goes_from_the_head_down_to_all_blocks():
    found = _plan("progressive", 7, stage_epochs=3)
    assert found == [
        Stage("head", 0, 3),
        Stage("top block", 1, 3),
        Stage("top 2 blocks", 2, 3),
        Stage("top 4 blocks", 4, 3),
        Stage("all blocks", 7, 3),
    ]


@pytest.mark.parametrize(("max_epochs", "epochs"), [
    (1, [1, 1, 1]), (2, [1, 1, 1]), (5, [2, 3, 3]), (6, [3, 3, 3]), (7, [3, 4, 4]), (9, [4, 5, 5]), (10, [5, 5, 5]),
    (30, [5, 5, 5]),
])  # fmt: skip
def test_few_epochs_are_shared_between_the_head_and_the_blocks(max_epochs, epochs):
    found = _plan("progressive", 2, max_epochs=max_epochs, stage_epochs=5)
    assert [stage.epochs for stage in found] == epochs
    assert max_epochs == 1 or found[0].epochs < max_epochs


@pytest.mark.parametrize(("depth", "step", "counts"), [
    (4, 1, [0, 1, 2, 3, 4]),
    (8, 3, [0, 1, 4, 7, 8]),
    (3, 100, [0, 1, 3]),
    (1, 2, [0, 1]),
    (1, "double", [0, 1]),
    (8, "double", [0, 1, 2, 4, 8]),
    (9, "double", [0, 1, 2, 4, 8, 9]),
])  # fmt: skip
def test_steps_by_which_blocks_are_unfrozen(depth, step, counts):
    assert [stage.n_unfrozen for stage in _plan("progressive", depth, step=step)] == counts


def test_names_of_stages():
    assert [_plan("partial", 3, n_blocks=n)[0].name for n in (1, 2, 3)] == ["top block", "top 2 blocks", "all blocks"]
    assert _plan("full", 1)[0].name == "all blocks"


# -- what is better -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "best", "by_score", "better"), [
    # By the loss.
    ((0.4, 0.9), (0.5, 0.9), False, True),
    ((0.5, 0.9), (0.5, 0.9), False, False),
    ((0.6, 0.99), (0.5, 0.9), False, False),
    # A gain of less than a ten-thousandth is none, however small the loss is.
    ((0.49996, 0.9), (0.5, 0.9), False, False),
    ((0.49994, 0.9), (0.5, 0.9), False, True),
    ((0.0049996, 0.9), (0.005, 0.9), False, False),
    ((0.0049994, 0.9), (0.005, 0.9), False, True),
    # The baseline's score is 0.8: less than that is no gain, less than the best so far may be.
    ((0.4, 0.85), (0.5, 0.9), False, True),
    ((0.4, 0.8), (0.5, 0.9), False, True),
    ((0.4, 0.79), (0.5, 0.9), False, False),
    ((np.inf, -np.inf), (0.5, 0.9), False, False),
    ((np.nan, 0.9), (0.5, 0.9), False, False),
    # By the score, and by the loss where scores are equal.
    ((0.6, 0.91), (0.5, 0.9), True, True),
    ((0.4, 0.89), (0.5, 0.9), True, False),
    ((0.4, 0.9), (0.5, 0.9), True, True),
    ((0.5, 0.9), (0.5, 0.9), True, False),
    ((0.4, np.nan), (0.5, 0.9), True, False),
    # Scores that are losses are negative.
    ((0.6, -0.3), (0.5, -0.4), True, True),
])  # fmt: skip
def test_improves(found, best, by_score, better):
    baseline = Scores(0.7, -1.0 if by_score else 0.8)
    assert improves(Scores(*found), Scores(*best), baseline, by_score=by_score) is better


def test_a_score_that_is_not_defined_bars_nothing():
    """R² of a single held-out sample."""
    nothing = float("nan")
    assert improves(Scores(0.4, nothing), Scores(0.5, nothing), Scores(0.5, nothing), by_score=False)


def test_anything_is_better_than_a_probe_that_gives_no_numbers():
    worst = Scores(np.inf, -np.inf)
    assert improves(Scores(0.5, 0.9), worst, worst, by_score=False)


# -- a recipe whose epochs and scores are written down ------------------------------------------------------


class Script:
    """Stands for task and data: losses come one after another, and each is what some epoch is said to have reached."""

    def __init__(self, losses, scoring=None):
        self.losses, self.scoring = iter(losses), scoring
        self.sources = []
        self.notes = []
        self.replay = True

    def judge(self, outputs, y, targets, weights):
        value = next(self.losses)
        return value if isinstance(value, Scores) else Scores(value, 0.5)

    def source(self, network, n_unfrozen):
        self.sources.append(n_unfrozen)
        return TableSource([np.zeros((10, WIDTH), dtype=np.float32)], network.device), n_unfrozen < 2


class Play:
    """A recipe of three blocks in which the n-th epoch moves all that trains by one, and is scored by a script."""

    def __init__(
        self, monkeypatch, losses, strategy="progressive", *, raising=None, scoring=None, learned=None, **parameters
    ):
        self.epochs = []
        #: Training losses of some epochs; of the others it is their number.
        self.learned = learned or {}
        self.raising = raising or {}
        script = Script(losses, scoring)
        head = LinearHead(Standardizer(np.zeros(WIDTH), np.ones(WIDTH)), Probe(np.zeros((2, WIDTH)), np.zeros(2), 1.0))
        network = Network(array_backbone(), Reading((2,), "mean"), head, n_features=WIDTH, normalize=False)
        given = {"max_epochs": 60, "patience": 3, "seed": 5, "settings": SETTINGS, "held_out": np.arange(8, 10)}
        given |= {name: value for name, value in parameters.items() if name in given}
        hooks = {name: value for name, value in parameters.items() if name in ("report", "save")}
        objects = {"progressive": Progressive(stage_epochs=parameters.get("stage_epochs", 3))}
        chosen = objects.get(strategy) or STRATEGIES[strategy]()
        plan = FitPlan(
            encoder=None, samples=[], y=np.zeros(10), targets=np.zeros((10, 2)), weights=np.ones(10), task=script,
            train=np.arange(8), positions=np.arange(10), strategy=chosen, method=Weights(),
            stages=tuple(chosen.stages(network.depth, given["max_epochs"])), **given,
        )  # fmt: skip
        self.recipe = Recipe(plan, network, script, **hooks)
        self.script = script
        monkeypatch.setattr(recipe_module, "train_epoch", self._train)

    def _train(self, trainer, indices, rng, *, first_step, total_steps, progress):
        self.epochs.append(
            {
                "settings": trainer.settings,
                "steps": (first_step, total_steps),
                "before": self.value(),
                "dropout": trainer.network.head.dropout.p,
                "fresh": not trainer.optimizer.state,
                "draw": int(rng.integers(2**40)),
            }
        )
        error = self.raising.get(len(self.epochs))
        with torch.no_grad():
            for parameter in trainer.network.parameters():
                parameter += 1.0
        if error is not None:
            raise error
        if trainer.average is not None:
            trainer.average.update()
        return self.learned.get(len(self.epochs), float(len(self.epochs)))

    def run(self, baseline=1.0):
        self.recipe.begin(Scores(baseline, 0.5))
        self.recipe.run()
        return self.recipe.progress

    def value(self):
        """By how much each of head, top, middle and stem has moved: how many epochs they remember."""
        network = self.recipe.network
        base = dict(network.base.module.named_parameters())
        moved = {
            name: round(float((value - base[name]).detach().mean())) for name, value in
            network.backbone.module.named_parameters()
        }  # fmt: skip
        return round(float(network.head.linear.bias.detach().mean())), *(
            moved[name] for name in ("layers.1.weight", "layers.0.weight", "stem.weight")
        )


def _stages(progress):
    """Stage, attempt and number of epochs, as they came."""
    keys = [(record["stage"], record["attempt"]) for record in progress.history]
    return [(*key, len(list(group))) for key, group in itertools.groupby(keys)]


def test_gain_goes_on_to_the_next_blocks_and_at_the_deepest_to_another_round(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, *[0.15, 0.1], *[0.2] * 4], stage_epochs=2)
    progress = play.run()
    assert _stages(progress) == [
        ("head", 1, 2),
        ("top block", 1, 2),
        ("top 2 blocks", 1, 2),
        ("all blocks", 1, 6),
        ("all blocks", 2, 2),
    ]
    assert progress.path == [(0, 0, 2, 0), (1, 0, 2, 1), (2, 0, 2, 2), (3, 0, 2, 3), (3, 0, 2, 4)]
    assert progress.best.loss == 0.1
    assert progress.ended == "all blocks: worse than before, also with stronger regularization"
    assert play.value() == (10, 8, 6, 4)
    assert [record["unfrozen"] for record in progress.history[:8:2]] == [
        [],
        ["layers.1"],
        ["layers.0", "layers.1"],
        ["stem", "layers.0", "layers.1"],
    ]
    assert play.script.sources == [0, 1, 2, 3, 3, 3, 3]
    assert [epoch["settings"] for epoch in play.epochs] == [SETTINGS] * 12 + [SETTINGS.stronger()] * 2
    # A round is a run of its own: its schedule begins anew, and it goes on from the best.
    assert [epoch["steps"] for epoch in play.epochs] == [(0, 4), (2, 4)] * 7
    assert [epoch["before"][0] for epoch in play.epochs[8:]] == [8, 9, 10, 11, 10, 11]


@pytest.mark.parametrize(("loss", "known"), [(0.0149, True), (0.0151, False)])
def test_a_gain_at_the_deepest_is_the_last_where_the_samples_are_known_by_heart(monkeypatch, loss, known):
    play = Play(monkeypatch, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, *[0.5] * 4], stage_epochs=2, learned={8: loss})
    progress = play.run()
    assert progress.best.loss == 0.3
    assert (len(progress.history) == 8) is known
    assert (progress.ended == "all blocks: the training samples are memorized") is known


def test_what_neither_gains_nor_harms_goes_on(monkeypatch):
    """In a far domain the top block alone changes nothing, and all of them everything."""
    play = Play(monkeypatch, [0.9, 0.8, 0.7, *[0.8, 0.69999, 0.9], *[0.6, 0.5, 0.4], *[0.9] * 6])
    progress = play.run()
    assert _stages(progress)[:3] == [("head", 1, 3), ("top block", 1, 3), ("top 2 blocks", 1, 3)]
    # Neither its weights nor those of its head are kept.
    assert play.epochs[6]["before"] == (3, 0, 0, 0)
    assert progress.path == [(0, 0, 3, 0), (2, 0, 3, 2)]
    assert play.value() == (6, 3, 3, 0)


def test_harm_is_a_loss_that_is_higher_by_more_than_its_standard_error(monkeypatch):
    """The same mean on the held-out samples: noise goes on, harm is tried once more."""

    def scores(each):
        return Scores(float(np.mean(each)), 0.5, 1.0, tuple(each))

    best, noisy, sure = scores([0.5, 0.5, 0.5]), scores([0.1, 0.3, 1.4]), scores([0.59, 0.6, 0.61])
    assert noisy.loss == pytest.approx(sure.loss)
    for found, follows in ((noisy, ("top 2 blocks", 1, 1)), (sure, ("top block", 2, 1))):
        play = Play(monkeypatch, [best, found, *[found] * 20], stage_epochs=1)
        assert _stages(play.run())[2] == follows


def test_harm_is_told_by_the_best_epoch_of_an_attempt(monkeypatch):
    """One of them was as good as the best: what was worse before and after is no harm."""
    play = Play(monkeypatch, [0.9, 0.8, 0.7, *[0.9, 0.7, 0.9], *[0.9] * 6])
    assert _stages(play.run())[2:] == [("top 2 blocks", 1, 3), ("top 2 blocks", 2, 3)]


def test_degradation_restores_the_best_and_tries_once_more_with_more_regularization(monkeypatch):
    # Head: gains. Top block: none, twice.
    play = Play(monkeypatch, [0.9, 0.8, 0.7, *[0.95, 0.9, 0.8], *[0.75, 0.9, 0.8]])
    progress = play.run()
    assert _stages(progress) == [("head", 1, 3), ("top block", 1, 3), ("top block", 2, 3)]
    assert progress.ended == "top block: worse than before, also with stronger regularization"
    assert progress.path == [(0, 0, 3, 0)]
    assert progress.best.loss == 0.7
    # Each attempt began from the best, and the end is the best: three epochs of the head, none of the block.
    assert [play.epochs[i]["before"] for i in (3, 4, 6, 7)] == [
        (3, 0, 0, 0),
        (4, 1, 0, 0),
        (3, 0, 0, 0),
        (4, 1, 0, 0),
    ]
    assert play.value() == (3, 0, 0, 0)
    assert [epoch["settings"] for epoch in play.epochs] == [SETTINGS] * 6 + [SETTINGS.stronger()] * 3
    assert [epoch["dropout"] for epoch in play.epochs] == pytest.approx([0.1] * 6 + [0.3] * 3)
    assert [record["rates"]["head"] for record in progress.history] == pytest.approx([1e-2] * 6 + [5e-3] * 3)


def test_the_blocks_below_are_those_of_the_base_again(monkeypatch):
    """The last stage moves the stem and does harm: not by one bit does it stay moved."""
    losses = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, *[9.0] * 6]
    play = Play(monkeypatch, losses)
    progress = play.run()
    assert _stages(progress)[-2:] == [("all blocks", 1, 3), ("all blocks", 2, 3)]
    assert play.value() == (9, 6, 3, 0)
    network = play.recipe.network
    assert torch.equal(network.backbone.module.stem.weight, network.base.module.stem.weight)
    assert set(network.changed()) == {"layers.0.weight", "layers.1.weight"}
    for name, value in network.state(2).items():
        assert torch.equal(value, play.recipe.best_state[name])


def test_a_second_attempt_that_gains_goes_on_with_the_first_strength(monkeypatch):
    play = Play(
        monkeypatch, [0.9, 0.8, 0.7, *[0.9] * 3, *[0.6, 0.5, 0.4], *[0.3, 0.2, 0.1], *[0.09, 0.08, 0.07], *[0.5] * 6]
    )
    progress = play.run()
    assert _stages(progress) == [
        ("head", 1, 3),
        ("top block", 1, 3),
        ("top block", 2, 3),
        ("top 2 blocks", 1, 3),
        ("all blocks", 1, 6),
        ("all blocks", 2, 3),
    ]
    assert progress.path == [(0, 0, 3, 0), (1, 1, 3, 2), (2, 0, 3, 3), (3, 0, 3, 4)]
    assert play.epochs[9]["settings"] == SETTINGS
    # What the first attempt did is not in the weights.
    assert play.value() == (12, 9, 6, 3)


def test_the_head_s_stage_may_bring_nothing(monkeypatch):
    """The probe is as good a head as there is; what blocks bring is another question. No second attempt at the head."""
    play = Play(monkeypatch, [1.1, 1.2, 1.3, 0.9, 0.8, 0.7, *[0.9] * 6])
    progress = play.run()
    assert _stages(progress) == [("head", 1, 3), ("top block", 1, 3), ("top 2 blocks", 1, 3), ("top 2 blocks", 2, 3)]
    assert play.epochs[3]["before"] == (0, 0, 0, 0)
    assert progress.path == [(1, 0, 3, 1)]
    assert play.value() == (3, 3, 0, 0)


def test_nothing_brings_anything(monkeypatch):
    play = Play(monkeypatch, itertools.repeat(1.0))
    progress = play.run()
    assert _stages(progress) == [
        ("head", 1, 3),
        ("top block", 1, 3),
        ("top 2 blocks", 1, 3),
        ("all blocks", 1, 3),
        ("all blocks", 2, 3),
    ]
    assert progress.ended == "all blocks: no gain, also with stronger regularization"
    assert progress.path == []
    assert progress.best == progress.baseline
    assert play.value() == (0, 0, 0, 0)


def test_the_best_epoch_is_kept_and_not_the_last(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.5, 0.6, *[0.9] * 6])
    progress = play.run()
    assert progress.path == [(0, 0, 2, 0)]
    assert play.value() == (2, 0, 0, 0)
    # Within a stage training goes on from where it is; the next begins from the best.
    assert [epoch["before"][0] for epoch in play.epochs[:4]] == [0, 1, 2, 2]
    assert [record["best"] for record in progress.history[:4]] == [True, True, False, False]


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_counts_epochs_since_the_best(monkeypatch, patience):
    losses = [0.9, 0.95, 0.8, *[0.9] * 20]
    play = Play(monkeypatch, losses, "full", patience=patience, max_epochs=12)
    progress = play.run()
    expected = {1: 2, 2: 5, 4: 7}[patience]
    assert len(progress.history) == expected
    assert progress.path == [(0, 0, {1: 1, 2: 3, 4: 3}[patience], 0)]
    assert progress.ended == "all blocks: done"


def test_patience_begins_anew_with_each_attempt(monkeypatch):
    play = Play(monkeypatch, itertools.repeat(1.0), patience=2)
    assert [n_epochs for *_, n_epochs in _stages(play.run())] == [2] * 5


@pytest.mark.parametrize(("loss", "words"), [(1.0, "no gain"), (1.1, "worse than before")])
def test_one_stage_has_one_attempt(monkeypatch, loss, words):
    play = Play(monkeypatch, itertools.repeat(loss), "full", max_epochs=9)
    progress = play.run()
    assert _stages(progress) == [("all blocks", 1, 3)]
    assert progress.ended == f"all blocks: {words}"
    assert play.value() == (0, 0, 0, 0)


@pytest.mark.parametrize(("max_epochs", "found"), [
    (1, [("head", 1, 1)]),
    (2, [("head", 1, 1), ("top block", 1, 1)]),
    (3, [("head", 1, 1), ("top block", 1, 2)]),
    (4, [("head", 1, 2), ("top block", 1, 2)]),
    (7, [("head", 1, 3), ("top block", 1, 3), ("top block", 2, 1)]),
])  # fmt: skip
def test_epochs_of_all_stages_are_counted_together(monkeypatch, max_epochs, found):
    play = Play(monkeypatch, [0.9, 0.8, 0.7, *[0.9] * 20], max_epochs=max_epochs)
    progress = play.run()
    assert _stages(progress) == found
    assert progress.ended == "max_epochs was reached"
    assert [record["epoch"] for record in progress.history] == list(range(1, max_epochs + 1))
    assert play.value()[0] == min(3, max_epochs)


def test_less_of_the_score_than_the_probe_has_is_no_gain(monkeypatch):
    play = Play(monkeypatch, [Scores(0.9, 0.4), Scores(0.8, 0.6), Scores(0.7, 0.4), *[Scores(9.0, 0.5)] * 6])
    progress = play.run()
    assert progress.path == [(0, 0, 2, 0)]
    assert progress.best == Scores(0.8, 0.6)


def test_a_metric_that_the_user_named_decides(monkeypatch):
    """By the loss alone the second epoch would be kept."""
    losses = [Scores(0.9, 0.8), Scores(0.5, 0.7), Scores(0.7, 0.6)]
    play = Play(monkeypatch, [*losses, *[Scores(9.0, 0.1)] * 6], scoring="f1")
    assert play.run().path == [(0, 0, 1, 0)]
    assert play.value()[0] == 1


def test_schedules_run_over_the_epochs_of_a_stage(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.8, 0.7, *[0.9] * 20])
    play.run()
    # Eight samples in batches of four; three epochs a stage.
    assert [epoch["steps"] for epoch in play.epochs] == [(0, 6), (2, 6), (4, 6)] * 3
    assert len({epoch["draw"] for epoch in play.epochs}) == len(play.epochs), "two epochs drew the same numbers"


def test_each_attempt_has_an_optimizer_of_its_own(monkeypatch):
    made = []
    original = recipe_module.build_optimizer
    monkeypatch.setattr(recipe_module, "build_optimizer", lambda *args: made.append(args[1:]) or original(*args))
    Play(monkeypatch, [0.9, 0.8, 0.7, *[0.9] * 20]).run()
    assert made == [(0, SETTINGS), (1, SETTINGS), (1, SETTINGS.stronger())]


# -- other ends ---------------------------------------------------------------------------------------------


def test_an_interrupted_fit_has_the_best_weights(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.8, 0.95, 0.9], raising={5: KeyboardInterrupt()})
    progress = play.run()
    assert progress.ended == "interrupted"
    assert len(progress.history) == 4
    assert progress.path == [(0, 0, 2, 0)]
    assert play.value() == (2, 0, 0, 0)


def test_a_fit_that_diverged_has_the_best_weights(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.8, 0.95, 0.9], raising={5: TrainingError("The training loss became nan.")})
    progress = play.run()
    assert progress.ended == "diverged: The training loss became nan."
    assert play.value() == (2, 0, 0, 0)


def test_other_errors_are_not_swallowed(monkeypatch):
    with pytest.raises(MemoryError):
        Play(monkeypatch, [0.9], raising={1: MemoryError()}).run()


def test_a_callback_ends_the_fit_after_its_epoch(monkeypatch):
    told = []
    play = Play(monkeypatch, [0.9, 0.8, 0.7, 0.6], report=lambda record: told.append(record) or len(told) == 2)
    progress = play.run()
    assert progress.ended == "stopped by a callback"
    assert len(told) == len(progress.history) == 2
    assert told[1] is progress.history[1]
    assert progress.path == [(0, 0, 2, 0)]
    assert play.value() == (2, 0, 0, 0)


def test_a_callback_in_a_stage_without_gain_is_what_ended_the_fit(monkeypatch):
    play = Play(monkeypatch, itertools.repeat(1.0), report=lambda record: len(play.recipe.progress.history) == 5)
    progress = play.run()
    assert progress.ended == "stopped by a callback"
    assert _stages(progress) == [("head", 1, 3), ("top block", 1, 2)]


@pytest.mark.parametrize("max_epochs", [2, 60])
def test_a_callback_has_the_last_word(monkeypatch, max_epochs):
    """Also where the fit would have ended after that epoch for another reason."""
    parameters = {"max_epochs": max_epochs, "patience": 2}
    play = Play(monkeypatch, itertools.repeat(1.0), "full", report=lambda record: record["epoch"] == 2, **parameters)
    assert play.run().ended == "stopped by a callback"


def test_without_held_out_samples_every_epoch_is_kept(monkeypatch):
    play = Play(monkeypatch, [], held_out=np.arange(0), stage_epochs=2, patience=1, max_epochs=8)
    progress = play.run()
    assert _stages(progress) == [("head", 1, 2), ("top block", 1, 2), ("top 2 blocks", 1, 2), ("all blocks", 1, 2)]
    assert play.value() == (8, 6, 4, 2)
    assert progress.path == [(0, 0, 2, 0), (1, 0, 2, 1), (2, 0, 2, 2), (3, 0, 2, 3)]
    assert all(record["valid_loss"] is None and record["best"] for record in progress.history)


def test_without_held_out_samples_each_stage_is_run_once(monkeypatch):
    """As `validation_fraction` says: of "progressive" stage_epochs for each stage."""
    play = Play(monkeypatch, [], held_out=np.arange(0), stage_epochs=2)
    assert len(play.run().history) == 8


def test_no_stages_keep_the_probe(monkeypatch):
    play = Play(monkeypatch, [])
    play.recipe.plan = replace(play.recipe.plan, stages=())
    progress = play.run()
    assert (progress.history, progress.path, progress.ended) == ([], [], "")


# -- what is written down -----------------------------------------------------------------------------------


def test_history(monkeypatch):
    play = Play(monkeypatch, [0.9, 0.95, 0.9, 0.5, *[0.6] * 20], stage_epochs=2)
    history = play.run().history
    assert [set(record) for record in history] == [
        {
            "epoch", "stage", "attempt", "round", "unfrozen", "n_trained", "rates", "train_loss", "valid_loss",
            "valid_score", "valid_error", "best", "replayed", "seconds", "max_epochs", "stage_number", "n_stages",
        }
    ] * len(history)  # fmt: skip
    first, last = history[0], history[3]
    assert (first["epoch"], first["stage"], first["attempt"], first["best"]) == (1, "head", 1, True)
    assert (last["train_loss"], last["valid_loss"], last["valid_score"]) == (4.0, 0.5, 0.5)
    rounds = [record["round"] for record in history]
    assert rounds == sorted(rounds)
    assert set(rounds) == set(range(1, rounds[-1] + 1))
    # No two rounds share a stage and an attempt but at the end, where all blocks have more than one.
    assert len({(record["stage"], record["attempt"], record["round"]) for record in history}) == rounds[-1]
    assert last["rates"] == {"head": 1e-2, "layers.1": pytest.approx(1e-3)}
    assert [record["replayed"] for record in history] == [record["stage"] != "top 2 blocks" for record in history]
    assert all(record["seconds"] >= 0 for record in history)
    (top,) = play.recipe.network.top(1)
    assert (
        last["n_trained"] - first["n_trained"]
        == play.recipe.network.base.module.get_parameter(f"{top.name}.weight").numel()
    )


def test_every_epoch_is_saved_once_it_is_written_down(monkeypatch):
    saved = []

    def save(recipe, optimizer, average):
        progress = recipe.progress
        saved.append((len(progress.history), progress.stage, progress.attempt, progress.epoch, progress.stale))
        assert optimizer.param_groups
        assert average is None

    play = Play(monkeypatch, [0.9, 0.8, 0.85, *[0.9] * 6], save=save)
    play.run()
    assert saved[:4] == [(1, 0, 0, 1, 0), (2, 0, 0, 2, 0), (3, 0, 0, 3, 1), (4, 1, 0, 1, 1)]
    assert saved[-1] == (9, 1, 1, 3, 3)


# -- the average --------------------------------------------------------------------------------------------


def test_the_average_is_what_is_judged_and_kept_and_training_goes_on_from_the_weights(monkeypatch):
    judged = []
    play = Play(monkeypatch, [0.9, 0.8, 0.7], "head", settings=Settings(ema=0.999, batch_size=4))
    original = play.recipe._judge
    monkeypatch.setattr(
        play.recipe, "_judge",
        lambda trainer: judged.append(float(play.recipe.network.head.linear.bias.detach()[0])) or original(trainer),
    )  # fmt: skip
    play.recipe.plan = replace(play.recipe.plan, stages=(Stage("head", 0, 3),))
    play.run()
    average, expected = 0.0, []
    for n, value in enumerate([1.0, 2.0, 3.0], start=1):
        decay = (1 + n) / (10 + n)
        average = decay * average + (1 - decay) * value
        expected.append(average)
    assert judged == pytest.approx(expected)
    assert [epoch["before"][0] for epoch in play.epochs] == [0, 1, 2]
    assert float(play.recipe.network.head.linear.bias.detach()[0]) == pytest.approx(expected[-1])


# -- the same way once more ---------------------------------------------------------------------------------


def test_the_way_is_gone_again_with_the_same_epochs_and_strengths(monkeypatch):
    losses = [0.9, 0.8, 0.85, *[0.9] * 3, *[0.6, 0.65, 0.7], *[0.9] * 6]
    found = Play(monkeypatch, losses)
    path = found.run().path
    assert path == [(0, 0, 2, 0), (1, 1, 1, 2)]
    again = Play(monkeypatch, [])
    again.recipe.repeat(path)
    assert [epoch["settings"] for epoch in again.epochs] == [SETTINGS, SETTINGS, SETTINGS.stronger()]
    # The schedule is that of the whole stage, which was planned with three epochs.
    assert [epoch["steps"] for epoch in again.epochs] == [(0, 6), (2, 6), (0, 6)]
    assert [epoch["before"] for epoch in again.epochs] == [(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0)]
    assert again.value() == found.value() == (3, 1, 0, 0)
    draws = {epoch["draw"] for epoch in found.epochs} & {epoch["draw"] for epoch in again.epochs}
    assert not draws, "other samples in the order of before"
    for name, value in again.recipe.network.state(1).items():
        assert torch.equal(value, again.recipe.best_state[name])


def test_averages_are_what_a_repeated_way_ends_with(monkeypatch):
    settings = Settings(ema=0.5, batch_size=4)
    again = Play(monkeypatch, [], settings=settings)
    again.recipe.repeat([(0, 0, 2, 0)])
    # Weights of 1 and 2, with pasts of 2 / 11 and 3 / 12.
    expected = 3 / 12 * (9 / 11) + 9 / 12 * 2
    assert float(again.recipe.network.head.linear.bias.detach()[0]) == pytest.approx(expected)
