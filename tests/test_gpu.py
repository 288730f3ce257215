"""What holds on a GPU alone; and that the gpu profile runs, on tiny models."""

import pytest
import torch
import toy

from kdlib.config.profile import load_profile
from kdlib.distill import losses, objectives, trainer
from kdlib.distill.teacher_targets import Live
from kdlib.model import checkpoints, tokens
from kdlib.study import pretraining, stages
from kdlib.study.run import Run, load_rows

gpu = pytest.mark.gpu


@pytest.mark.slow
def test_gpu_profile_runs_with_its_settings_on_tiny_models(tmp_path, monkeypatch):
    """Every setting but the counts is the profile's own: lengths, batches, rates, methods."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    profile = load_profile("gpu")
    tiny = {"path": None, "layers": 1, "heads": 1, "width": 16}
    shapes = {size: shape.model_copy(update=tiny) for size, shape in profile.models.items()}
    few = {"packages": ("datasets",), "pool": 60, "members": 24, "held_out": 8, "twins": 1}
    few["repetitions"] = (1,)
    shorter = {"epochs": 1, "batch": 16}
    profile = profile.model_copy(
        update={
            "data": profile.data.model_copy(update=few),
            "tokens": profile.tokens.model_copy(update={"vocabulary": 512}),
            "models": shapes,
            "pretrain": profile.pretrain.model_copy(update={"tokens": 4000, "batch": 16}),
            "teacher": profile.teacher.model_copy(update=shorter),
            "student": profile.student.model_copy(update=shorter),
            "measure": profile.measure.model_copy(update={"rouge_rows": 2, "sampled_rows": 1}),
        }
    )
    pretraining.prepare(profile)
    rows = load_rows(profile, 0)
    stages.make(Run(profile, 0, "teacher", "teacher"), rows)
    for method in ("sft", "word_kd", "gkd"):
        folder = stages.make(Run(profile, 0, method, profile.sizes[-1]), rows)
        assert (folder / "tuples.parquet").is_file()


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_the_gpu_is_the_step_on_the_cpu(precision):
    batch = tokens.collate(toy.examples()[:8], toy.tokenizer().pad_token_id)
    found = []
    for where in ("cpu", "cuda"):
        model, teacher = (toy.new_model(seed).to(where) for seed in (0, 1))
        minimized = objectives.objective("mixed_forward_kl", Live(teacher, precision), {"mix": 0.5})
        loss, _ = trainer.step_loss(model, [batch], minimized, precision)
        found.append([loss.cpu(), *(p.grad.cpu() for p in model.parameters())])
    rough = {"fp32": {"rtol": 1e-3, "atol": 1e-5}, "bf16": {"rtol": 0.1, "atol": 5e-3}}[precision]
    for cpu, cuda in zip(*found, strict=True):
        torch.testing.assert_close(cpu, cuda, **rough)


@gpu
def test_no_step_waits_for_the_gpu():
    """A step of word-level KD from batch to optimizer, with every synchronization an error."""
    model, teacher = (toy.new_model(seed).cuda() for seed in (0, 1))
    minimized = objectives.objective("mixed_forward_kl", Live(teacher, "bf16"), {"mix": 0.5})
    optimizer = trainer.GuardedAdamW(model, toy.how(precision="bf16"), planned=2)
    batch = tokens.collate(toy.examples()[:8], toy.tokenizer().pad_token_id)

    def step():
        loss, _ = trainer.step_loss(model, [batch], minimized, "bf16")
        optimizer.step(loss)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_a_fault_on_the_gpu_leaves_the_weights():
    model = toy.new_model().cuda()
    optimizer = trainer.GuardedAdamW(model, toy.how(warmup=0), planned=9)
    batch = tokens.collate(toy.examples()[:8], toy.tokenizer().pad_token_id)

    def weights_after(factor):
        loss, _ = trainer.step_loss(
            model,
            [batch],
            lambda logits, on, part: losses.cross_entropy(logits, on.targets[part]) * factor,
            "fp32",
        )
        optimizer.step(loss)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first, good, bad, later = (weights_after(factor) for factor in (1.0, 1.0, torch.nan, 1.0))
    assert not torch.equal(first, good)
    assert torch.equal(good, bad) and torch.equal(good, later)


@gpu
def test_divergences_agree_on_both_devices():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 64, 500)
    for name in ("forward_kl", "reverse_kl", "generalized_jsd", "skew_kl", "adaptive_kl"):
        divergence = getattr(losses, name)
        there = divergence(student.cuda(), teacher.cuda()).cpu()
        torch.testing.assert_close(divergence(student, teacher), there, rtol=1e-4, atol=1e-5)


def test_attention_is_sdpa_on_a_gpu(monkeypatch):
    monkeypatch.setattr(checkpoints, "device", lambda: torch.device("cuda"))
    assert checkpoints.attention() == "sdpa"
    assert toy.new_model().config._attn_implementation == "sdpa"
