"""What the tests of the model share: a drawn data set, an untrained artifact, the real photos."""

from pathlib import Path

import pytest

from mlc_core.spec import ImageSize, Spec
from samples.garments import write_dataset

REAL_DATA = Path(__file__).parents[3] / "shared" / "data" / "fashion-small.zip"


@pytest.fixture(scope="session")
def spec() -> Spec:
    return Spec(
        "tiny",
        "3",
        ImageSize(height_px=40, width_px=30),
        {
            "color": ("Black", "Red", "White"),
            "master_category": ("Apparel", "Footwear"),
            "sub_category": ("Shoes", "Topwear"),
            "category": ("Casual Shoes", "Tshirts", "Shirts", "Heels"),
        },
    )


@pytest.fixture(scope="session")
def saved(spec, tmp_path_factory):
    """An artifact with random weights."""
    # Here, so that tests of other things start without TensorFlow.
    from mlc_core.training.export import save_artifact  # noqa: PLC0415
    from mlc_core.training.network import MultiHeadNetwork  # noqa: PLC0415

    model = MultiHeadNetwork(spec).build_model()
    metrics = {"heads": {head: {} for head in spec.heads}}
    return save_artifact(model, spec, metrics, tmp_path_factory.mktemp("models") / "tiny" / "3")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A data set of 240 drawn garments."""
    path = tmp_path_factory.mktemp("data") / "drawn"
    write_dataset(path, photos_each=6)
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.exists():
        pytest.skip(f"needs the Fashion Product Images data set at {REAL_DATA}")
    return REAL_DATA
