"""Calibration: one temperature, fitted on validation images alone and folded into the network's last layer.

After training with class weights and label smoothing, a network's probabilities do not match how often it is right.
Dividing its logits by one number T mends that. Their order stays, so no prediction changes (Guo et al., On Calibration
of Modern Neural Networks, ICML 2017). T above 1 makes a model less sure, below 1 surer.
"""

import numpy as np
from scipy.optimize import minimize_scalar

_BOUNDS = 0.05, 20.0  # of T; far beyond what the smoothed labels below lead to
_DIGITS = 4  # of T: more would carry the processor's last bits into the model
_FLOOR = 1e-30  # the log of a probability of 0 is infinite


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax probabilities as they are with the logits divided by `temperature`.

    Args:
        probabilities: floats (n, classes) 0 to 1, rows that sum to 1.
        temperature: above 0; 1 / T undoes T.

    Returns:
        float64 (n, classes), rows that sum to 1.
    """
    # The log of a softmax is its logits up to a constant, and that constant does not matter to a softmax
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _FLOOR)) / temperature
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature with the least mean cross-entropy, rounded to 4 digits.

    Labels are smoothed as in Platt, Probabilistic outputs for support vector machines (1999), here for K classes: of n
    images of a class, the class counts (n + 1) / (n + K) and each other class 1 / (n + K). Without it, few validation
    images that are all classified right would lead to probabilities of 0 and 1.

    Args:
        labels: (n,) integers, the true class of each image.
        probabilities: (n, K), the softmax of an uncalibrated model.

    Raises:
        ValueError: there is no image.
    """
    labels, classes = np.asarray(labels), np.asarray(probabilities).shape[1]
    if not len(labels):
        raise ValueError("no validation image to fit the temperature on")
    images = np.bincount(labels, minlength=classes)[labels][:, np.newaxis]
    wanted = (images * np.eye(classes)[labels] + 1) / (images + classes)

    def loss(log_temperature: float) -> float:
        said = apply_temperature(probabilities, float(np.exp(log_temperature)))
        return float(-(wanted * np.log(np.maximum(said, _FLOOR))).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=np.log(_BOUNDS), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), _DIGITS)
