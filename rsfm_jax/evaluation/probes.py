"""Frozen-feature probes: nearest neighbours and logistic regression.

Fixed protocol: features are standardised with the training split's statistics; kNN votes over
20 cosine neighbours (Scale-MAE's k); the linear probe is L-BFGS logistic regression whose
strength is chosen on a fifth of the training split.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

NEIGHBOURS = 20
# Inverse regularisation strengths tried by the linear probe.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


def probe_accuracies(features: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """`split_accuracies` on seeded, class-balanced halves; every class has two examples or more.

    Args:
      features: [N, D] frozen features.
      labels: [N] class numbers.
      seed: of the split into halves.
    """
    halves = train_test_split(features, labels, test_size=0.5, random_state=seed, stratify=labels)
    train_x, test_x, train_y, test_y = halves
    return split_accuracies(train_x, train_y, test_x, test_y, seed)


def split_accuracies(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, seed: int
) -> dict[str, float]:
    """Accuracies in [0, 1] on the test features of the probes `knn` and `linear`.

    Args:
      train_x: [N, D] features to fit on, with labels train_y [N].
      train_y: class numbers.
      test_x: [M, D] features to score on, with labels test_y [M].
      test_y: class numbers.
      seed: of the split that chooses the linear probe's strength.
    """
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
    neighbours = min(NEIGHBOURS, len(train_x))
    knn = KNeighborsClassifier(neighbours, metric="cosine").fit(train_x, train_y)
    linear = fit_linear(train_x, train_y, seed)
    return {
        "knn": float(knn.score(test_x, test_y)),
        "linear": float(linear.score(test_x, test_y)),
    }


def fit_linear(features: np.ndarray, labels: np.ndarray, seed: int) -> LogisticRegression:
    """Logistic regression at the strength that does best on a held-out fifth."""
    fit_x, held_x, fit_y, held_y = train_test_split(
        features, labels, test_size=0.2, random_state=seed
    )

    def fit(strength: float, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            # 300 iterations rank the strengths; full convergence changes no digit shown.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=strength, max_iter=300).fit(x, y)

    best = max(STRENGTHS, key=lambda strength: fit(strength, fit_x, fit_y).score(held_x, held_y))
    return fit(best, features, labels)
