"""Identities of the divergences, and the same numbers from TRL and Liger where they have them."""

import inspect
import math
import warnings

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from kdlib.distill import losses

COEFFICIENTS = [
    (losses.generalized_jsd, "beta", [0.0, 1e-3, 0.1, 0.5, 0.9, 1.0]),
    (losses.skew_kl, "alpha", [0.0, 0.1, 0.9]),
    (losses.skew_reverse_kl, "alpha", [0.0, 0.1, 0.9]),
    (losses.adaptive_kl, "mu", [0.1, 0.5, 0.9]),
]
PLAIN = [losses.forward_kl, losses.reverse_kl, losses.symmetric_kl, losses.total_variation]
DIVERGENCES = PLAIN + [one for one, _, _ in COEFFICIENTS]
SETTINGS = [(one, {}) for one in PLAIN]
SETTINGS += [(one, {name: value}) for one, name, values in COEFFICIENTS for value in values]
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def over(settings):
    def label(x):
        return x.__name__ if callable(x) else ",".join(f"{k}={v}" for k, v in x.items())

    return pytest.mark.parametrize(("divergence", "given"), settings, ids=label)


every = over(SETTINGS)
softened = pytest.mark.parametrize("temperature", [1.0, 2.0])


def naive_kl(p, q):
    return (p * (p / q).log()).sum(-1)


def naive_adaptive_kl(p, q, mu):
    """Token by token, as the paper tells it; the share of the gap is a constant to the gradient."""
    shares = []
    for row_p, row_q in zip(p.tolist(), q.tolist(), strict=True):
        gaps, mass = {True: 0.0, False: 0.0}, 0.0
        for rank, token in enumerate(sorted(range(len(row_p)), key=lambda i: -row_p[i])):
            mass += row_p[token]
            gaps[rank == 0 or mass <= mu] += abs(row_p[token] - row_q[token])
        shares.append(gaps[True] / (gaps[True] + gaps[False]))
    share = p.new_tensor(shares)
    return share * naive_kl(p, q) + (1 - share) * naive_kl(q, p)


def naive_jsd(p, q, beta):
    if beta in (0, 1):
        return naive_kl(q, p) if beta else naive_kl(p, q)
    m = beta * p + (1 - beta) * q
    return beta * naive_kl(p, m) + (1 - beta) * naive_kl(q, m)


NAIVE = {  # of plain probabilities, the teacher's first
    losses.forward_kl: naive_kl,
    losses.reverse_kl: lambda p, q: naive_kl(q, p),
    losses.symmetric_kl: lambda p, q: (naive_kl(p, q) + naive_kl(q, p)) / 2,
    losses.generalized_jsd: naive_jsd,
    losses.skew_kl: lambda p, q, alpha: naive_kl(p, alpha * p + (1 - alpha) * q),
    losses.skew_reverse_kl: lambda p, q, alpha: naive_kl(q, alpha * q + (1 - alpha) * p),
    losses.total_variation: lambda p, q: (p - q).abs().sum(-1) / 2,
    losses.adaptive_kl: naive_adaptive_kl,
}


def power(divergence, temperature):
    """The factor that keeps the gradient's size: of second order in p - q but for one."""
    return temperature if divergence is losses.total_variation else temperature**2


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(2, 6, 11, dtype=torch.float64) * 3


@every
@softened
def test_zero_at_equality_and_positive_elsewhere(divergence, given, temperature, logits):
    student, teacher = logits
    shifted = student + 5.0  # the same distribution
    zero = divergence(student, shifted, temperature=temperature, **given)
    assert_close(zero, torch.zeros_like(zero), atol=1e-12, rtol=0)
    assert (divergence(student, teacher, temperature=temperature, **given) > 1e-4).all()


@every
def test_gradient_is_zero_at_equality(divergence, given, logits):
    student = logits[0].requires_grad_()
    divergence(student, logits[0].detach(), **given).sum().backward()
    assert_close(student.grad, torch.zeros_like(student.grad), atol=1e-12, rtol=0)


@every
def test_rounding_in_float32_stays_small_on_a_real_vocabulary(divergence, given):
    torch.manual_seed(0)
    student = torch.randn(2, 50257) * 3
    near = student + 1e-4 * torch.randn(2, 50257)
    assert divergence(student, student + 1, **given).abs().max() < 2e-6
    assert divergence(student, near, **given).min() > -2e-6


@every
@softened
def test_naive_twin(divergence, given, temperature, logits):
    student, teacher = logits
    student.requires_grad_()
    q, p = ((x / temperature).softmax(-1) for x in (student, teacher))
    twin = power(divergence, temperature) * NAIVE[divergence](p, q, **given)
    value = divergence(student, teacher, temperature=temperature, **given)
    assert_close(value, twin)
    slopes = [torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in (value, twin)]
    assert_close(*slopes)


# the weights of adaptive_kl are constants to the gradient; the naive twin has checked its slope
@over([one for one in SETTINGS if one[0] is not losses.adaptive_kl])
def test_gradcheck(divergence, given, logits):
    student, teacher = logits
    assert gradcheck(lambda x: divergence(x, teacher, **given), student.requires_grad_())


@every
@softened
@pytest.mark.parametrize("excluded", ["teacher", "student", "both", "all but one"])
def test_finite_where_a_token_is_excluded(divergence, given, temperature, excluded, logits):
    student, teacher = logits
    if excluded in ("teacher", "both"):
        teacher[:, 3] = -torch.inf
    if excluded in ("student", "both"):
        student[:, 3] = -torch.inf
    if excluded == "all but one":  # and not the same one
        student[:, 1:] = teacher[:, :-1] = -torch.inf
    student.requires_grad_()
    value = divergence(student, teacher, temperature=temperature, **given)
    value.sum().backward()
    assert value.isfinite().all() and (value > 0).all()
    assert student.grad.isfinite().all()


def test_a_token_that_both_exclude_changes_nothing(logits):
    padded = torch.cat([logits, logits.new_full((2, 6, 4), -torch.inf)], dim=-1)
    for divergence, given in SETTINGS:
        assert_close(divergence(*padded, **given), divergence(*logits, **given))


@every
@pytest.mark.parametrize("bad", ["nan", "inf", "no token left"])
def test_broken_logits_are_not_hidden(divergence, given, bad, logits):
    student, teacher = logits
    broken = student.clone()
    if bad == "no token left":
        broken[0] = -torch.inf
    else:
        broken[0, 0] = float(bad)
    for pair in ((broken, teacher), (teacher, broken)):
        value = divergence(*pair, **given)
        assert value[0].isnan() and value[1:].isfinite().all()


@every
def test_temperature_softens_and_rescales(divergence, given, logits):
    student, teacher = logits
    soft = divergence(student / 3, teacher / 3, **given)
    assert_close(divergence(student, teacher, temperature=3, **given), power(divergence, 3) * soft)


@every
def test_temperature_keeps_the_size_of_the_gradient(divergence, given, logits):
    def slope(temperature):
        student = logits[0].clone().requires_grad_()
        divergence(student, logits[1], temperature=temperature, **given).sum().backward()
        return student.grad

    assert 0.95 < slope(200.0).norm() / slope(100.0).norm() < 1.05


@every
def test_dtype(divergence, given, logits):
    exact = divergence(*logits.bfloat16().double(), **given)
    assert exact.dtype == torch.float64 and exact.shape == (6,)
    for narrow in (logits.bfloat16(), logits.bfloat16().float()):
        value = divergence(*narrow, **given)
        assert value.dtype == torch.float32
        assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.25, 0.5, 0.9, 1.0])
def test_swapping_the_roles(beta, logits):
    a, b = logits
    assert_close(losses.forward_kl(a, b), losses.reverse_kl(b, a))
    assert_close(losses.symmetric_kl(a, b), losses.symmetric_kl(b, a))
    assert_close(losses.total_variation(a, b), losses.total_variation(b, a))
    swapped = losses.generalized_jsd(b, a, beta=1 - beta)
    assert_close(losses.generalized_jsd(a, b, beta=beta), swapped)
    if beta < 1:
        swapped = losses.skew_reverse_kl(b, a, alpha=beta)
        assert_close(losses.skew_kl(a, b, alpha=beta), swapped)


def test_jsd_tends_to_the_two_kls_per_unit(logits):
    mild, jsd, small = logits / 3, losses.generalized_jsd, 1e-8
    forward, reverse = losses.forward_kl(*mild), losses.reverse_kl(*mild)
    assert_close(jsd(*mild, beta=small) / small, forward, rtol=1e-5, atol=0)
    assert_close(jsd(*mild, beta=1 - small) / small, reverse, rtol=1e-5, atol=0)
    assert_close(jsd(*mild, beta=0.0), forward, rtol=0, atol=0)
    assert_close(jsd(*mild, beta=1.0), reverse, rtol=0, atol=0)


def test_skew_kl_goes_from_kl_to_zero(logits):
    assert_close(losses.skew_kl(*logits, alpha=0.0), losses.forward_kl(*logits))
    assert_close(losses.skew_reverse_kl(*logits, alpha=0.0), losses.reverse_kl(*logits))
    assert (losses.skew_kl(*logits, alpha=1 - 1e-6) < 1e-6).all()


def test_bounds_in_nats(logits):
    student, teacher = logits.clone()
    student[:, 1:] = teacher[:, :-1] = -torch.inf  # no token in common
    ones = torch.ones(6, dtype=torch.float64)
    for beta in (0.1, 0.5):
        coin = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        assert_close(losses.generalized_jsd(student, teacher, beta=beta), coin * ones)
    assert_close(losses.skew_kl(student, teacher, alpha=0.1), -math.log(0.1) * ones)
    assert_close(losses.skew_reverse_kl(student, teacher, alpha=0.1), -math.log(0.1) * ones)
    assert_close(losses.total_variation(student, teacher), ones)
    # Pinsker's inequality, which holds in nats only
    assert (2 * losses.total_variation(*logits) ** 2 <= losses.forward_kl(*logits)).all()


def test_adaptive_kl_weighs_by_where_the_gap_is():
    teacher = torch.tensor([0.45, 0.35, 0.1, 0.1], dtype=torch.float64).log()[None]
    in_head = torch.tensor([0.3, 0.35, 0.1, 0.25], dtype=torch.float64).log()[None]
    # gaps .15 on the first token, which alone stays within mu, and .15 on the last
    both = (losses.forward_kl(in_head, teacher) + losses.reverse_kl(in_head, teacher)) / 2
    assert_close(losses.adaptive_kl(in_head, teacher), both)
    # a first token above mu is the head by itself, all the others the tail
    assert_close(losses.adaptive_kl(in_head, teacher, mu=0.2), both)
    only_tail = torch.tensor([0.45, 0.25, 0.2, 0.1], dtype=torch.float64).log()[None]
    assert_close(losses.adaptive_kl(only_tail, teacher), losses.reverse_kl(only_tail, teacher))
    # mu = .85 takes the second token into the head, so half of that gap
    both = (losses.forward_kl(only_tail, teacher) + losses.reverse_kl(only_tail, teacher)) / 2
    assert_close(losses.adaptive_kl(only_tail, teacher, mu=0.85), both)


@pytest.mark.parametrize(
    ("divergence", "name", "bad"),
    [
        *((losses.generalized_jsd, "beta", bad) for bad in (-0.1, 1.1, math.nan)),
        *((losses.skew_kl, "alpha", bad) for bad in (-0.1, 1.0, math.nan)),
        *((losses.skew_reverse_kl, "alpha", bad) for bad in (-0.1, 1.0, math.nan)),
        *((losses.adaptive_kl, "mu", bad) for bad in (0.0, 1.0, math.nan)),
        *((one, "temperature", bad) for one in DIVERGENCES for bad in (0.0, -1.0, math.inf)),
    ],
)
def test_coefficient_out_of_range(divergence, name, bad, logits):
    with pytest.raises(ValueError, match=rf"^{name} = {bad}: must be .*\d"):
        divergence(*logits, **{name: bad})


def test_coefficients_are_named():
    """So that no temperature is taken for one; the defaults are what their papers took."""
    for divergence, name, _ in COEFFICIENTS:
        coefficient = inspect.signature(divergence).parameters[name]
        assert coefficient.kind is inspect.Parameter.KEYWORD_ONLY
        assert coefficient.default == {"beta": 0.5, "alpha": 0.1, "mu": 0.5}[name]


def test_mix_is_between_its_parts(logits):
    student, teacher = logits
    labels = torch.arange(6)
    hard = losses.cross_entropy(student, labels)
    soft = losses.forward_kl(student, teacher)
    assert_close(losses.mixed_forward_kl(student, teacher, labels, 1.0), hard)
    assert_close(losses.mixed_forward_kl(student, teacher, labels, 0.0), soft)
    quarter = losses.mixed_forward_kl(student, teacher, labels, 0.25)
    assert_close(quarter, 0.25 * hard + 0.75 * soft)
    with pytest.raises(ValueError, match=r"^mix = 1.5: must be from 0 to 1$"):
        losses.mixed_forward_kl(student, teacher, labels, 1.5)


# What other libraries compute. They are the extra `peers`; without it these tests are skipped.


@pytest.fixture(scope="module")
def trl_jsd():
    """TRL's loss per position: it gives a value per token of the vocabulary, not summed."""
    pytest.importorskip("trl")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of on import is not ours to mend
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        from trl.experimental.gkd.gkd_trainer import GKDTrainer

    def jsd(student, teacher, beta, temperature=1.0):
        return GKDTrainer.generalized_jsd_loss(
            student, teacher, beta=beta, temperature=temperature, reduction="none"
        ).sum(-1)

    return jsd


@pytest.fixture(scope="module")
def liger():
    """Liger's chunked loss is plain torch and runs without a GPU; its Triton kernels do not."""
    pytest.importorskip("liger_kernel")
    from liger_kernel.chunked_loss import jsd_loss

    return jsd_loss


@pytest.fixture(scope="module")
def liger_jsd(liger):
    """Liger's loss per position: it gives the sum over positions, so one at a time."""

    def jsd(student, teacher, beta):
        loss = liger.LigerFusedLinearJSDFunction.distillation_loss_fn
        rows = zip(student, teacher, strict=True)
        return torch.stack([loss(q[None], p[None], beta=beta) for q, p in rows])

    return jsd


@softened
@pytest.mark.parametrize("beta", [*BETAS, 1e-3])
def test_trl_has_the_same_jsd_but_for_the_squared_temperature(trl_jsd, beta, temperature, logits):
    """TRL leaves the factor out, so its gradient shrinks as T grows; Hinton et al. put it in."""
    ours = losses.generalized_jsd(*logits, beta=beta, temperature=temperature)
    assert_close(ours, temperature**2 * trl_jsd(*logits, beta, temperature))


@pytest.mark.parametrize("beta", [*BETAS, 1e-3])
def test_liger_has_the_same_jsd(liger_jsd, beta, logits):
    assert_close(losses.generalized_jsd(*logits, beta=beta), liger_jsd(*logits, beta))


@pytest.mark.parametrize("peer", ["trl_jsd", "liger_jsd"])
@pytest.mark.parametrize("beta", BETAS)
def test_peers_are_nan_where_the_teacher_excludes_a_token(peer, beta, logits, request):
    """0 x log 0 is 0, so ours is right; at beta = 1 the true value is infinite, and ours finite."""
    student, teacher = logits
    teacher[:, 3] = -torch.inf
    theirs = request.getfixturevalue(peer)(student, teacher, beta)
    assert (theirs.isinf() if beta == 1 else theirs.isnan()).all()
    kept = teacher.clone()
    kept[:, 3] = -80.0  # a probability of about 1e-36 instead of 0
    ours = losses.generalized_jsd(student, teacher, beta=beta)
    if beta < 1:
        assert_close(ours, losses.generalized_jsd(student, kept, beta=beta))
    else:
        assert ours.isfinite().all()


@pytest.mark.parametrize("peer", ["trl_jsd", "liger_jsd"])
@pytest.mark.parametrize("beta", BETAS)
def test_peers_compute_in_the_dtype_of_the_logits(peer, beta, request):
    """With bfloat16 logits theirs are off by more than a tenth of a small divergence; ours not."""
    torch.manual_seed(0)
    student = torch.randn(8, 5000) * 3
    narrow = torch.stack([student, student + 0.1 * torch.randn(8, 5000)]).bfloat16()
    exact = losses.generalized_jsd(*narrow.double(), beta=beta)
    theirs = request.getfixturevalue(peer)(*narrow, beta).double()
    ours = losses.generalized_jsd(*narrow, beta=beta).double()
    assert ((ours / exact - 1).abs() < 1e-2).all()
    assert ((theirs / exact - 1).abs() > 0.1).any()


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_liger_weights_of_hard_and_soft_loss(liger, mix):
    """The whole of Liger's loss, value and gradient, is word-level KD with mix its hard weight."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 5), torch.randn(11, 5)
    teacher_hidden, teacher_weight = torch.randn(6, 7), torch.randn(11, 7)
    labels = torch.arange(6)
    loss = liger.LigerFusedLinearJSDLoss(
        weight_hard_loss=mix, weight_soft_loss=1 - mix, beta=0.0, compiled=False
    )
    theirs, ours = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    value = loss(theirs, weight, teacher_hidden, teacher_weight, labels)
    value.backward()
    teacher_logits = teacher_hidden @ teacher_weight.T
    mixed = losses.mixed_forward_kl(ours @ weight.T, teacher_logits, labels, mix).mean()
    mixed.backward()
    assert_close(mixed, value)
    assert_close(ours.grad, theirs.grad)


@pytest.mark.gpu
def test_liger_has_the_same_total_variation(liger, logits):
    """A Triton kernel over probabilities."""
    from liger_kernel.transformers import LigerTVDLoss

    student, teacher = logits.float().cuda()
    theirs = LigerTVDLoss(reduction="none")(student.softmax(-1), teacher.softmax(-1)).sum(-1)
    assert_close(losses.total_variation(student, teacher), theirs)
