"""How far a student predicts what its teacher predicts, on the same masked tokens.

Accuracy asks for the text's own word; these two ask for the teacher's opinion, of which
distillation is an imitation (Eq. 3 of the paper): a student can imitate well and still be wrong
where the teacher is.

Shapes: M masked tokens, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def top_match(student: torch.Tensor, teacher: torch.Tensor) -> np.ndarray:
    """Whether both find the same entry most probable: 1.0 or 0.0, [M].

    Args:
        student, teacher: logits [M, V] over the same vocabulary.
    """
    return (student.argmax(-1) == teacher.argmax(-1)).double().numpy()


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> np.ndarray:
    """KL(teacher ‖ student) of the predicted distributions at temperature 1, in nats, [M].

    Args:
        student, teacher: logits [M, V] over the same vocabulary.
    """
    log_student, log_teacher = (F.log_softmax(logits.float(), dim=-1) for logits in (student, teacher))
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1).double().numpy()
