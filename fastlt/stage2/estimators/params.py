"""Makes a dataclass an estimator for scikit-learn, without depending on it. The fields are the parameters."""

from dataclasses import fields
from typing import Any, Self

from fastlt.core.errors import UserError


class Parameters:
    """Base class with the methods that scikit-learn's `clone`, `Pipeline` and `GridSearchCV` need.

    The derived class is a dataclass whose constructor stores its fields unchanged.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the parameters by name. deep: has no effect, as no parameter is an estimator itself."""
        return {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]

    def set_params(self, **params: Any) -> Self:
        """Sets parameters by name and returns the estimator. Their values are checked by `fit`.

        Raises UserError for an unknown name; nothing is changed then.
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                raise UserError(f"{type(self).__name__} has no parameter {name!r}: allowed are {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags  # only scikit-learn calls this

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())

    def get_metadata_routing(self) -> Any:
        """Returns for scikit-learn's metadata routing that `score` takes weights, which nobody has asked for yet.

        Without it, a Pipeline that ends with this estimator could not be scored where metadata routing is enabled.
        """
        from sklearn.utils.metadata_routing import MetadataRequest  # only scikit-learn calls this

        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=None)
        return request
