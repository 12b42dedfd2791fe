"""The naive recipe: both whole models in every step, losses as the paper writes them."""

from __future__ import annotations

from itertools import count
from typing import ClassVar

import torch
from torch import nn

from benchmarks.distillation_peers.clock import StepClock
from benchmarks.distillation_peers.contender import Contender, PlainPair, maps_arguments
from benchmarks.distillation_peers.workload import GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY, Task


class Naive(Contender):
    """Full forward passes with the vocabulary's logits at all tokens, also in a stage; AdamW as torch gives it."""

    title: ClassVar[str] = "naive loop"

    def run(self, task: Task, clock: StepClock) -> None:
        pair = PlainPair(self.workload, task, self.timer).train()
        parameters = pair.trainable()
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        clock.start()
        for step in count():
            batch = self.workload.tensors(step)
            with torch.no_grad():
                of_teacher = self.teacher(**batch.inputs, **maps_arguments(task))
            loss = pair.loss(of_teacher, pair(**batch.inputs), batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            optimizer.step()
            if clock.step_done(loss.item()):
                return
