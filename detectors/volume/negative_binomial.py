"""The negative binomial in mean and dispersion, Var Y = mu + phi mu^2, as far out as floods go.

scipy has no logarithm of the incomplete beta function, so where that underflows the tail is bounded by its first term.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln

from detectors.batch import Floats

F32 = npt.NDArray[np.float32]

_SMALLEST = 1e-280
"""Below this betainc loses digits on its way to 0; the bound takes over there."""
LEAST_PHI = 1e-6
"""Poisson to four digits in every tail that matters, and still far from cancellation in 1 / phi."""


def surprise(count: Floats, mean: Floats, phi: Floats) -> Floats:
    """-log10 P(Y >= count), shape of the arguments; count >= 1, mean > 0. Does not saturate.

    P(Y >= y) = I_x(y, 1/phi), x = mu / (mu + 1/phi) (DLMF 8.17.24 with a real number of failures). Underneath
    betainc's range: the first term over one minus the largest ratio of neighbours, an upper bound of the tail that is
    within a factor 2 when count > 2 mean; so surprise is never overstated.
    """
    shape = 1 / np.maximum(phi, LEAST_PHI)
    success = mean / (mean + shape)
    tail = betainc(count, shape, success)
    first = count * np.log(success) + shape * np.log1p(-success) - betaln(count, shape) - np.log(count)
    ratio = success * (count + shape) / (count + 1)
    bound = np.minimum(first - np.log1p(-np.minimum(ratio, 1 - 1e-9)), 0)
    log_tail = np.where(tail > _SMALLEST, np.log(np.maximum(tail, _SMALLEST)), bound)
    result: Floats = -log_tail / np.log(10)
    return result


def deficit(count: Floats, mean: Floats, phi: Floats) -> Floats:
    """-log10 P(Y <= count), shape of the arguments; count >= 0, mean > 0. Does not saturate before the count is 0."""
    shape = 1 / np.maximum(phi, LEAST_PHI)
    success = mean / (mean + shape)
    chance = betainc(shape, count + 1, 1 - success)
    # underneath: the last term over one minus the ratio of neighbours, as above
    last = count * np.log(success) + shape * np.log1p(-success) - betaln(count + 1, shape) - np.log(count + shape)
    ratio = count / np.maximum(success * (count + shape - 1), 1e-9)
    bound = np.minimum(last - np.log1p(-np.minimum(ratio, 1 - 1e-9)), 0)
    log_tail = np.where(chance > _SMALLEST, np.log(np.maximum(chance, _SMALLEST)), bound)
    result: Floats = -log_tail / np.log(10)
    return result


def central(mean: F32, variance: F32, sigmas: float) -> F32:
    """The value that a gamma distribution of that mean and variance exceeds as a normal one exceeds so many sigmas.

    Wilson and Hilferty (PNAS 1931); for bands that are drawn, not for odds.
    """
    spread = variance / (9 * np.square(mean))
    value: F32 = mean * np.maximum(1 - spread + sigmas * np.sqrt(spread), 0) ** 3
    return value
