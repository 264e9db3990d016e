"""A finished run as a predictor: its backbone, one of its classifiers, and how its images were seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastlt.core.errors import UserError
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.data.shards.encode import Encoding
from fastlt.models.checkpoint.store import load_model
from fastlt.predict.images import Evaluation
from fastlt.registry import is_own
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classify import file_of

PREFERRED = ("crt", "tau_norm")
RESULTS, CLASSIFIERS = "results.json", "classifiers"
STAGE_1 = "checkpoint.pt"  # the run's own representation
_NEEDED = ("class_names", "image_size", "evaluation", "backbone", "classifiers")
_AGAIN = "give its training command again, which trains no representation anew"


def default_classifier(names: Sequence[str]) -> str:
    """The classifier that is taken where none is named: a rule, as accuracies on test must not choose. Class-balanced
    ones go before `joint`, which hardly ever names a rare class."""
    for name in (*PREFERRED, *names):
        if name in names and name != "joint":
            return name
    return names[0]


class Predictor:
    """Predicts with a classifier of a run.

    run: its folder. name: the classifier; None for `default_classifier`. A backbone or a classifier of the user's own,
    `package.module:NAME`, is imported: whoever names a run runs the code that it names.
    Raises UserError where the run is not finished or has no such classifier.
    """

    def __init__(self, run: Path, name: str | None, device: torch.device):
        results = _results(run)
        known = results["classifiers"]
        if name is not None and name not in known:
            raise UserError(f"--classifier={name} is not in {run}: allowed are {', '.join(known)}")
        self.name = name or default_classifier(list(known))
        self.class_names: list[str] = results["class_names"]
        self.evaluation = _evaluation(run, results)
        self._scores = find_classifier(self.name).scores
        kept = _kept(run, self.name, known[self.name].get("key"))
        self.temperature: float = kept["temperature"]
        self.checkpoint: str = kept["checkpoint"]  # of the backbone below it, in the run's folder or anywhere
        self.tensors = {key: tensor.to(device) for key, tensor in kept["tensors"].items()}
        own = results["backbone"] if is_own(results["backbone"]) else None
        model, state = load_model(run / kept["checkpoint"], own)
        if kept["checkpoint"] == STAGE_1 and state["key"] != results.get("key"):
            raise UserError(f"{run / STAGE_1} is newer than {run / RESULTS}: {_AGAIN}")
        self._backbone = model.backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        # As in training. On a CPU bfloat16 would be slower, and further from what was learned, than float32.
        self._bf16 = device.type == "cuda" and state["settings"].get("precision") == "bf16"

    @torch.inference_mode()
    def top(self, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable classes of float32 images [n, size, size, 3] as Evaluation gives them, best first.

        Returns confidences, float32 [n, k], and class numbers, int64 [n, k], k = min(count, C), both on the CPU. A
        confidence is the softmax of the scores over the temperature that was fitted for the classifier, if there is
        one; of a row of scores that is not finite all of them are NaN.
        """
        inputs = images.to(self._device).permute(0, 3, 1, 2)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            features = self._backbone(inputs)
        scores = self._scores(self.tensors, features.float()).float()
        if scores.shape[1] != len(self.class_names):
            raise UserError(
                f"classifier {self.name} gives {scores.shape[1]} scores for {len(self.class_names)} classes: "
                f"{RESULTS} and {CLASSIFIERS}/ are of two runs; {_AGAIN}"
            )
        probability = (scores / self.temperature).softmax(1)
        probability[~scores.isfinite().all(1)] = torch.nan
        best = probability.topk(min(count, scores.shape[1]), dim=1)
        return best.values.cpu(), best.indices.cpu()


def _results(run: Path) -> dict[str, Any]:
    path = run / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the folder of a finished run") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); {_AGAIN}") from None
    missing = [name for name in _NEEDED if not isinstance(results, dict) or name not in results]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}: the run is of an older fastlt; {_AGAIN}")
    if not results["classifiers"]:
        raise UserError(f"{path}: lists no classifier; {_AGAIN} and classifiers=[crt]")
    return results


def _kept(run: Path, name: str, key: str | None) -> dict[str, Any]:
    """What is kept of a fitted classifier: `tensors`, `temperature`, and in `checkpoint` where its backbone is."""
    path = file_of(run / CLASSIFIERS, name)
    if not path.exists():
        raise UserError(f"{path} does not exist: the run is of an older fastlt or not finished; {_AGAIN}")
    try:
        kept = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}; {_AGAIN}") from None
    if (
        not isinstance(kept, dict)
        or not kept.keys() >= {"tensors", "checkpoint", "temperature"}
        or kept.get("key") != key
    ):
        raise UserError(f"{path} is not the classifier that {run / RESULTS} tells of; {_AGAIN}")
    return kept


def _evaluation(run: Path, results: dict[str, Any]) -> Evaluation:
    about = results["evaluation"]
    try:
        stored = {name: about[name] for name in ("kind", "quality", "max_short_side", "orientation") if name in about}
        seen = about["keep"], tuple(about["mean"]), tuple(about["std"])
        return Evaluation(results["image_size"], *seen, Encoding(**stored))
    except (KeyError, TypeError) as error:
        raise UserError(f"{run / RESULTS}: its evaluation is not complete ({error!r}); {_AGAIN}") from None
