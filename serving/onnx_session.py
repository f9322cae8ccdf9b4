"""An ONNX Runtime session as a model is served, for what measures a graph, checks it or answers with it.

For tensors as small as ours ONNX Runtime's arena and memory pattern are slower than malloc, and larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["CPU", "session_of"]

CPU = "CPUExecutionProvider"


def session_of(content: bytes, providers: Sequence[str] = (CPU,)) -> Any:
    """A session of one thread.

    Args:
        content: the graph's file.
        providers: in the order in which they are tried; one that is not there is left out.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    there = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(
        content, options, providers=[one for one in providers if one in there]
    )
