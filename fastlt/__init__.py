"""fastlt: training on long-tailed image data, fast and honestly.

The public names below are imported at first use, so that `import fastlt` costs nothing and needs neither torch nor
DALI. The commands are modules of their own (`python -m fastlt.train`) and never hidden by these names.

Example:

    import fastlt

    dataset = fastlt.write_dataset("photos/", "data/photos")
    run = fastlt.run_experiment(data="data/photos", epochs=90)
    print(run)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastlt.api import Run, open_run, run_experiment, write_dataset
    from fastlt.core.groups import class_groups
    from fastlt.data.pipeline.loader import Loader
    from fastlt.data.plan import Augment
    from fastlt.data.shards.reader import Dataset
    from fastlt.longtail.sampler import Sampler
    from fastlt.longtail.torch_sampler import TorchSampler
    from fastlt.predict.predictor import Predictor
    from fastlt.stage2 import classifiers
    from fastlt.stage2.evaluate import evaluate

__all__ = [
    "Augment",
    "Dataset",
    "Loader",
    "Predictor",
    "Run",
    "Sampler",
    "TorchSampler",
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
    "Loader": "fastlt.data.pipeline.loader",
    "Predictor": "fastlt.predict.predictor",
    "Run": "fastlt.api",
    "Sampler": "fastlt.longtail.sampler",
    "TorchSampler": "fastlt.longtail.torch_sampler",
    "class_groups": "fastlt.core.groups",
    "classifiers": "fastlt.stage2",
    "evaluate": "fastlt.stage2.evaluate",
    "open_run": "fastlt.api",
    "run_experiment": "fastlt.api",
    "write_dataset": "fastlt.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fastlt' has no attribute {name!r}: public names are {', '.join(__all__)}")
    module = import_module(_MODULES[name])
    # A submodule is no attribute of its package before it is imported.
    found = import_module("fastlt.stage2.classifiers") if name == "classifiers" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
