"""Which teacher block each student block learns from when the depths differ."""

from __future__ import annotations

import math


def layer_map(student_blocks: int, teacher_blocks: int) -> list[int]:
    """For every student block the index (from 0) of its teacher block.

    The teacher's blocks are cut into as many equal groups as the student has blocks, and the
    *last* block of a group teaches, so that the student's last block always learns from the
    teacher's last. A student deeper than its teacher learns from some blocks several times.
    """
    return [math.ceil((block + 1) * teacher_blocks / student_blocks) - 1 for block in range(student_blocks)]
