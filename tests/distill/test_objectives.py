"""What each method minimizes."""

import pytest
import torch
import toy

from kdlib.config.methods import METHODS
from kdlib.distill import losses, objectives
from kdlib.distill.teacher_targets import Live
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens


def test_every_method_is_trained_by_what_it_is_about():
    batch = tokens.collate(toy.examples()[:4], 0, "rows")
    logits = checkpoints.response_logits(toy.new_model(), batch)

    class Forbidden(Live):
        def logits(self, batch, part):
            raise AssertionError("the teacher's probabilities were read")

    forbidden = Forbidden(toy.trained(), "fp32")
    for name, method in METHODS.items():
        reads = method.objective != "cross_entropy"
        assert reads == (name not in ("sft", "seq_kd", "seq_kd_beam", "seq_kd_sampled"))
        minimized = objectives.objective(method.objective, forbidden, method.checked({}))
        if not reads:
            torch.testing.assert_close(
                minimized(logits, batch, slice(None)), losses.cross_entropy(logits, batch.targets)
            )
            continue
        with pytest.raises(KdlibError, match="needs a teacher"):
            objectives.objective(method.objective)
        if name != "minillm":  # on rows it is plain cross-entropy, see test_rollouts
            with pytest.raises(AssertionError, match="probabilities were read"):
                minimized(logits, batch, slice(None))
    with pytest.raises(KdlibError, match="no objective 'hinge'; known: cross_entropy"):
        objectives.objective("hinge")


def test_contrastive_is_skew_forward_on_teachers_and_reverse_on_students_text():
    model, live = toy.new_model(), Live(toy.trained(), "fp32")
    minimized = objectives.objective("contrastive", live, {"alpha": 0.1})
    for role, divergence in (("teacher", losses.skew_kl), ("student", losses.skew_reverse_kl)):
        batch = tokens.collate(toy.examples()[:4], 0, role)
        logits = checkpoints.response_logits(model, batch)
        wanted = 0.5 * divergence(logits, live.logits(batch, slice(None)), alpha=0.1)
        torch.testing.assert_close(minimized(logits, batch, slice(None)), wanted)


@pytest.mark.parametrize("name", objectives.DIVERGENCES)
def test_divergences_read_the_methods_coefficients(name):
    """The objective is the divergence itself, and another coefficient gives another value."""
    live, batch = Live(toy.trained(), "fp32"), tokens.collate(toy.examples()[:4], 0)
    logits = checkpoints.response_logits(toy.new_model(), batch)
    pair = [logits, live.logits(batch, slice(None))]
    pair += [batch.targets] if name == "mixed_forward_kl" else []
    values = []
    for value in (0.3, 0.7):
        taken = dict.fromkeys(objectives.DIVERGENCES[name], value)
        minimized = objectives.objective(name, live, taken | {"other": 1.0})
        values.append(minimized(logits, batch, slice(None)))
        torch.testing.assert_close(values[-1], getattr(losses, name)(*pair, **taken))
    assert torch.equal(*values) == (not taken)


@pytest.mark.parametrize("name", objectives.DIVERGENCES)
def test_a_divergence_is_softened_where_the_method_has_a_temperature(name):
    live, batch = Live(toy.trained(), "fp32"), tokens.collate(toy.examples()[:4], 0)
    logits = checkpoints.response_logits(toy.new_model(), batch)
    pair = [logits, live.logits(batch, slice(None))]
    pair += [batch.targets] if name == "mixed_forward_kl" else []
    taken = dict.fromkeys(objectives.DIVERGENCES[name], 0.3)
    found = {}
    for given in ({}, {"temperature": 1.0}, {"temperature": 2.0}):
        minimized = objectives.objective(name, live, taken | given)
        found[given.get("temperature")] = minimized(logits, batch, slice(None))
    torch.testing.assert_close(found[2.0], getattr(losses, name)(*pair, **taken, temperature=2.0))
    assert torch.equal(found[1.0], found[None]) and not torch.equal(found[2.0], found[1.0])


def test_word_level_kd_softens_the_divergence_and_not_the_cross_entropy():
    batch = tokens.collate(toy.examples()[:4], 0)
    logits, teacher = (
        checkpoints.response_logits(one, batch) for one in (toy.new_model(), toy.trained())
    )
    mixed = losses.mixed_forward_kl(logits, teacher, batch.targets, 0.25, temperature=4.0)
    hard = losses.cross_entropy(logits, batch.targets)
    soft = 16 * losses.forward_kl(logits / 4, teacher / 4)
    torch.testing.assert_close(mixed, 0.25 * hard + 0.75 * soft)


def test_published_coefficients_are_those_of_the_table():
    beta, alpha = METHODS["gkd"].coefficients["beta"], METHODS["distillm"].coefficients["alpha"]
    assert objectives.published("generalized_jsd") == {"beta": beta} and beta.value == 0.5
    assert objectives.published("skew_reverse_kl") == {"alpha": alpha}
    for name in objectives.OBJECTIVES:
        assert set(objectives.published(name)) == set(objectives.DIVERGENCES.get(name, ()))
