"""Training on several processes of this machine, connected by gloo, and what the main one has."""

import json
import os
import socket
from pathlib import Path
from unittest.mock import patch

import torch
import toy
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from project import ROOT
from torch import multiprocessing
from torch.distributed.tensor import DTensor

from kdlib.distill import objectives, sharing, text_sources, trainer


def environment(rank, processes, port):
    """What torchrun and `accelerate launch` set for a process."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    own = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    return where | own | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))


def free_port():
    """A port that nothing uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def on_processes(work, folder: Path, *given, processes: int = 2):
    """What `work(folder, *given)`, a function of a module, gives on the main process."""
    arguments = (processes, free_port(), work, folder, given)
    multiprocessing.spawn(_process, arguments, nprocs=processes)
    return torch.load(folder / "found.pt")


def _process(rank, processes, port, work, folder, given):
    os.environ |= environment(rank, processes, port)
    torch.set_num_threads(1)
    found = work(folder / str(rank), *given)
    if rank == 0:
        torch.save(found, folder / "found.pt")


def curve(folder, settings, count, gradients=None):
    """The loss of each step, and all weights at the end, of a toy trained on `count` examples.

    `gradients` takes the place of those of `sharing.Shared`.
    """
    plain = toy.reading(settings, toy.examples()[:count])
    read, fit = plain, trainer.fit
    if sharing.world_size() > 1:
        read, fit = sharing.SharedReading(**vars(plain)), sharing.fit
    log, steps = folder / "log.jsonl", len(read.steps(0))
    minimized = objectives.objective("cross_entropy")
    fitting = {"epoch_steps": steps, "seed": 0, "log": log, "name": "toy"}
    used = gradients or sharing.Shared.gradients
    source = text_sources.fixed(read)
    with patch.object(trainer, "LOG_EVERY", 1), patch.object(sharing.Shared, "gradients", used):
        model = fit(toy.new_model(), source, minimized, settings, **fitting)
    lines = map(json.loads, log.read_text("utf-8").splitlines())
    return torch.tensor([one["loss_nats_per_token"] for one in lines]), toy.weights_of(model)


def shared_curve(folder, *given):
    """`curve` on all processes."""
    with sharing.process_group():
        return curve(folder, *given)


def sharded_curve(folder, *given):
    """`curve` by FSDP, which accelerate takes up on GPUs alone: here it is told to.

    As cluster/fsdp.yaml has it: by what `accelerate launch` makes of that file.
    """
    os.environ |= {name: value for name, value in launched().items() if name.startswith("FSDP_")}
    plugin = FullyShardedDataParallelPlugin()  # reads them
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward
    with sharing.process_group():
        AcceleratorState().fsdp_plugin = plugin
        PartialState().distributed_type = DistributedType.FSDP  # read by each new Accelerator
        return curve(folder, *given, of_parts)


def launched():
    """The environment that `accelerate launch` gives its processes by cluster/fsdp.yaml."""
    file = ROOT / "cluster" / "fsdp.yaml"
    asked = launch_command_parser().parse_args(["--config_file", str(file), "-m", "kdlib", "train"])
    read, *_ = _validate_launch_command(asked)
    assert read.use_fsdp and read.num_processes == 2
    return prepare_multi_gpu_env(read)


def of_parts(self, model, *given, gradients=sharing.Shared.gradients):
    """The gradient as it is, of a model of which each process has a part of every weight."""
    assert all(isinstance(one, DTensor) for one in model.parameters())
    assert sum(one.to_local().numel() for one in model.parameters()) < weights_in(self.whole)
    return gradients(self, model, *given)


def weights_in(model):
    """How many numbers a whole model has."""
    return sum(one.numel() for one in model.parameters())


def mean_of_means(self, _model, batches, minimized, precision):
    """A wrong gradient: each process counts as much as another, however many tokens it read."""
    own = sum(batch.count for batch in batches)
    total = sum(self.loss(batch, minimized, precision) for batch in batches) / max(1, own)
    total.backward()
    return self.accelerator.reduce(total.detach(), "mean"), own
