"""`fastlt.classifiers`: the classifiers of stage 2 for features of any network, with scikit-learn's interface.

Example:

    from fastlt.classifiers import CRT, NCM, TauNorm

    crt = CRT().fit(train_features, train_labels, val_features, val_labels)
    crt.predict(test_features)
    crt.report(test_features, test_labels)["few"]  # accuracy on classes with fewer than 20 training images, in percent
"""

from fastlt.stage2.estimators import *  # noqa: F403
from fastlt.stage2.estimators import __all__ as __all__
