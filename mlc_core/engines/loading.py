"""Loads the engine that runs an artifact. It imports a runtime only for the chosen engine."""

from __future__ import annotations

from mlc_core.artifact import Artifact
from mlc_core.engines.engine import Engine, EngineName, Precision, check_outputs
from mlc_core.errors import ArtifactError


def served_precision(artifact: Artifact) -> Precision:
    """The arithmetic that a CPU serves an artifact in, unless settings say otherwise."""
    return "int8" if artifact.int8_path.exists() else "float32"


def load_engine(
    name: EngineName,
    artifact: Artifact,
    threads: int = 1,
    precision: Precision = "float32",
    emulated_s: tuple[float, float] = (0.0, 0.0),
) -> Engine:
    """Load the artifact's network and check that its outputs are what the spec says.

    Args:
        threads: threads that one inference may use; 0 leaves it to the engine.
        precision: float32; int8 with onnxruntime, for an artifact that has an int8 network;
            bfloat16 with tensorflow, for a GPU.
        emulated_s: with emulated, the seconds that any batch takes, and those that each image adds.

    Raises:
        ArtifactError: the network can't be loaded, or contradicts its spec.
        ValueError: there is no such engine, or it does not have that precision.
    """
    engine: Engine
    if (name, precision) in (("onnxruntime", "float32"), ("onnxruntime", "int8")):
        from mlc_core.engines.onnx import OnnxRuntime  # noqa: PLC0415

        int8 = precision == "int8"
        if int8 and not artifact.int8_path.exists():
            raise ArtifactError(
                f"{artifact.path} has no int8 network; add it with `mlc quantize`, "
                "or serve the model in float32"
            )
        engine = OnnxRuntime(artifact.int8_path if int8 else artifact.onnx_path, threads)
    elif (name, precision) in (("tensorflow", "float32"), ("tensorflow", "bfloat16")):
        from mlc_core.engines.tensorflow import TensorFlow  # noqa: PLC0415  (seconds and 500 MB)

        bfloat16 = precision == "bfloat16"
        engine = TensorFlow(artifact.keras_path, artifact.spec, threads, bfloat16=bfloat16)
    elif name == "emulated":
        from mlc_core.engines.emulated import Emulated  # noqa: PLC0415

        engine = Emulated(artifact.spec, *emulated_s)
    else:
        raise ValueError(
            f"no engine {name!r} in {precision!r}; there are onnxruntime in float32 and int8, "
            "tensorflow in float32 and bfloat16, emulated in any"
        )
    check_outputs(engine, artifact.spec)
    return engine
