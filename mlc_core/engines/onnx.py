"""The ONNX Runtime engine, the default on a CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from mlc_core.engines.engine import Images, Probabilities
from mlc_core.errors import ArtifactError

CPU_INFO = Path("/proc/cpuinfo")


class OnnxRuntime:
    """An ONNX file in an inference session.

    Args:
        threads: threads that one inference may use; 0 leaves it to ONNX Runtime.

    Raises:
        ArtifactError: ONNX Runtime can't load the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait would take the cores from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not _has_vnni():
            # Without this, sums of int8 products saturate and most labels are wrong. It doubles
            # the time of an inference on a processor with VNNI, so it is not set there.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(f"{path} can't be loaded: {error}") from error
        # Outputs are found by name: ONNX sorts them alphabetically, a spec does not.
        self._heads = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def infer(self, images: Images) -> Probabilities:
        return dict(zip(self._heads, self._session.run(None, {self._input: images}), strict=True))


def _has_vnni() -> bool:
    """Whether the processor sums int8 products in 32 bits; False if /proc does not say so."""
    return CPU_INFO.exists() and "vnni" in CPU_INFO.read_text(encoding="utf-8")
