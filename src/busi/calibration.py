"""Calibration: one temperature, fitted on validation images alone and folded into the network's last layer.

Class weights and label smoothing leave a network whose probabilities are not how often it is right. Dividing its
logits by one number T mends that and changes no prediction, since their order stays (Guo et al., On Calibration of
Modern Neural Networks, ICML 2017). T above 1 makes a model less sure, below 1 surer.
"""

import numpy as np
from scipy.optimize import minimize_scalar

# Where a fit ends at the latest: a few validation images that are all right by far ask for a model that is never in
# doubt, and images that are all wrong for one that always is
SMALLEST, LARGEST = 0.25, 4.0
_DIGITS = 4  # of T: more would carry the processor's last bits into the model
_FLOOR = 1e-30  # the log of a probability of 0 is infinite


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax probabilities as they are with the logits divided by `temperature`.

    Args:
        probabilities: floats (n, classes) 0 to 1, rows that sum to 1.
        temperature: above 0; with 1 / T what T did is undone.

    Returns:
        float64 (n, classes), rows that sum to 1.
    """
    # The log of a softmax is its logits up to a constant, and that constant does not matter to a softmax
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _FLOOR)) / temperature
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature from `SMALLEST` to `LARGEST` with the least mean negative log likelihood, rounded to 4 digits.

    Args:
        labels: (n,) integers, the true class of each image.
        probabilities: (n, classes), the softmax of an uncalibrated model.

    Raises:
        ValueError: there is no image.
    """
    labels = np.asarray(labels)
    if not len(labels):
        raise ValueError("no validation image to fit the temperature on")
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        right = temper(probabilities, float(np.exp(log_temperature)))[rows, labels]
        return float(-np.log(np.maximum(right, _FLOOR)).mean())

    bounds = np.log(SMALLEST), np.log(LARGEST)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), _DIGITS)
