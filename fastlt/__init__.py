"""fastlt trains, compares and applies classifiers on long-tailed image data.

Example:

    import fastlt

    dataset = fastlt.write_dataset("photos/", "data/photos")
    run = fastlt.run_experiment(data="data/photos", epochs=90)
    print(run)  # a table of classifiers with their accuracies on many, medium and few-shot classes

The public names:

- `write_dataset` converts labelled images; `Dataset` opens what it wrote.
- `Loader`, `Sampler` and `Augment` give batches of a dataset to a training loop of your own; `InOrder` is the order of
  an evaluation.
- `TorchSampler` gives the same sampling to a torch.utils.data.DataLoader.
- `run_experiment` trains, classifies and evaluates; `open_run` opens the result, a `Run`.
- `Predictor` predicts new images with a finished run.
- `classifiers` holds the classifiers of stage 2 for features of any network, in the style of scikit-learn.
- `class_groups` and `evaluate` compute the groups many, medium and few, and the accuracies on them.
- `UserError`, a ValueError, is raised for wrong input; its message is one line.

Each name is imported when it is first used, so that `import fastlt` is fast and imports neither torch nor DALI. The
commands are modules (`fastlt.train` is run by `python -m fastlt.train`); no public name has the name of one of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from fastlt import classifiers
    from fastlt.api import Run, open_run, run_experiment, write_dataset
    from fastlt.core.errors import UserError
    from fastlt.core.groups import class_groups
    from fastlt.data.pipeline.loader import Loader
    from fastlt.data.plan import Augment
    from fastlt.data.shards.reader import Dataset
    from fastlt.longtail.sampler import InOrder, Sampler
    from fastlt.longtail.torch_sampler import TorchSampler
    from fastlt.predict.predictor import Predictor
    from fastlt.stage2.evaluate import evaluate

__all__ = [
    "Augment",
    "Dataset",
    "InOrder",
    "Loader",
    "Predictor",
    "Run",
    "Sampler",
    "TorchSampler",
    "UserError",
    "class_groups",
    "classifiers",
    "evaluate",
    "open_run",
    "run_experiment",
    "write_dataset",
]

_MODULES = {
    "Augment": "fastlt.data.plan",
    "Dataset": "fastlt.data.shards.reader",
    "InOrder": "fastlt.longtail.sampler",
    "Loader": "fastlt.data.pipeline.loader",
    "Predictor": "fastlt.predict.predictor",
    "Run": "fastlt.api",
    "Sampler": "fastlt.longtail.sampler",
    "TorchSampler": "fastlt.longtail.torch_sampler",
    "UserError": "fastlt.core.errors",
    "class_groups": "fastlt.core.groups",
    "classifiers": "fastlt.classifiers",
    "evaluate": "fastlt.stage2.evaluate",
    "open_run": "fastlt.api",
    "run_experiment": "fastlt.api",
    "write_dataset": "fastlt.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fastlt' has no attribute {name!r}: public names are {', '.join(__all__)}")
    module = import_module(_MODULES[name])
    found = module if name == "classifiers" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
