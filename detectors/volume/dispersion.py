"""How far counts stray from what is expected of them: per series, fitted to its own residuals, shrunk to its class.

A count of mean mu has variance mu + psi mu + phi mu^2: single messages, batches that keep their size whatever the
volume, and a rate that is itself noisy. What exceeds a Poisson comes in batches of some scale, fitted to the third
moment: a series that mixes single messages and rare large batches gets the long tail that its variance does not show.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags, Ints

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Where = slice | Ints | I32
"""A choice of series (codes)."""

WINSOR_SIGMAS, WINSOR_BATCHES = 4.0, 18.0
"""An excess beyond so many sigmas and batches is learnt as if it lay there: a flood can't make itself usual.

The tail of batches falls by e per batch, and e^-18 is a chance that pages: what is below is habit, learnt in full.
"""

_LEAST_WORTH = np.float32(0.5)  # windows that the class is worth always, at each of two volumes
_PRIOR_AT = (np.float32(0.4), np.float32(2))  # the two volumes, in parts of the usual one
_LEAST_USUAL = np.float32(0.05)


class Prior(NamedTuple):
    """What a class says of the scatter of its series; numbers, or arrays of the series asked about."""

    psi: F32
    phi: F32
    batch: F32


@dataclass(slots=True, eq=False)
class Strays:
    """Forgetting sums over the windows of every length, [w, p], with e = y - mu and weights 1 / (1 + mu).

    strayed = sum(e^2 - mu), leaning = sum((e^2 - mu) / (1 + mu)), skewed = sum(e^3 - mu - 3 (e^2 - mu)).
    """

    mean: F32  # sum(mu)
    square: F32  # sum(mu^2)
    inverse: F32  # sum(1 / (1 + mu))
    strayed: F32
    leaning: F32
    skewed: F32

    def add(self, window: int, here: slice, tells: Flags, keep: np.float32, told: "Told") -> None:
        """Forget a little, then learn what windows of the current tick told of the series that `tells` marks."""
        weight: F32 = np.divide(1, 1 + told.mean, dtype=np.float32)
        new: tuple[npt.NDArray[np.floating[Any]], ...] = (
            told.number * told.mean,
            told.number * told.mean * told.mean,
            told.number * weight,
            told.strayed,
            told.strayed * weight,
            told.skewed,
        )
        for column, value in zip(fields(self), new, strict=True):
            sums: F32 = getattr(self, column.name)[window, here]
            np.copyto(sums, sums * keep + value, where=tells)

    def fitted(self, window: int, where: Where, number: F32, few: float, prior: Prior) -> Prior:
        """psi, phi and batch of windows, of which `number` told: weighted least squares of e^2 - mu on mu and mu^2,
        neither below zero.

        The class joins in as some windows at two volumes, as many as there are when `few` have told (shrinking
        dispersion: Robinson and Smyth, Biostatistics 2008).
        batch = sum of `skewed` over twice that of `strayed`: the excess of a negative binomial with mean m and m theta
        of variance beyond m has third cumulant m + 3 m theta + 2 m theta^2.
        """
        mean, square, inverse, strayed, leaning, skewed = (
            getattr(self, column.name)[window, where] for column in fields(self)
        )
        told_by = np.maximum(number, 1)
        worth: F32 = np.add(_LEAST_WORTH, np.float32(few * few) / told_by, dtype=np.float32)
        usual = np.maximum(mean / told_by, _LEAST_USUAL)
        third = skewed
        for part in _PRIOR_AT:
            at = part * usual
            weight: F32 = np.divide(worth, 1 + at, dtype=np.float32)
            strays = prior.psi * at + prior.phi * at * at
            number, mean, square = number + worth, mean + worth * at, square + worth * at * at
            inverse, strayed, leaning = inverse + weight, strayed + worth * strays, leaning + weight * strays
            third = third + 2 * worth * strays * prior.batch
        first, second = number - inverse, mean - number + inverse  # sums of mu and mu^2 so weighted
        determinant = np.maximum(square * first - mean * second, np.float32(1e-12))  # > 0: the weights fall with mu
        psi = (leaning * square - strayed * second) / determinant
        phi = (first * strayed - mean * leaning) / determinant
        strayed = np.maximum(strayed, 0)
        fitted_psi = np.where(phi < 0, strayed / mean, np.maximum(psi, 0))
        fitted_phi = np.where(psi < 0, strayed / square, np.maximum(phi, 0))
        batch = third / np.maximum(2 * strayed, np.float32(0.02) * mean)
        return Prior(fitted_psi, fitted_phi, np.maximum(batch, fitted_psi))


class Told(NamedTuple):
    """What windows of the current tick told: how many they were, their mean, and the sums over them."""

    number: np.float32
    mean: F32
    strayed: F32
    skewed: F32

    def of(self, here: slice) -> "Told":
        """The same of some series."""
        return Told(self.number, self.mean[here], self.strayed[here], self.skewed[here])


def told(number: float, mean: F32, squares: F32, cubes: F32) -> Told:
    """From the sums of e^2 and e^3, winsorised, over so many windows."""
    strayed = squares - np.float32(number) * mean
    return Told(np.float32(number), mean, strayed, cubes - np.float32(number) * mean - 3 * strayed)


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Distribution of counts about their mean: single messages, and a share of the mean that comes in batches.

    The batches are a negative binomial with the share as its mean and with all of the variance. For
    batch = extra / mean the share is 1, and the whole count is the usual negative binomial.
    """

    mean: F32
    extra: F32  # variance beyond that of a Poisson
    batch: F32  # >= extra / mean

    @property
    def sigma(self) -> F32:
        sigma: F32 = np.sqrt(self.mean + self.extra)
        return sigma

    @property
    def most(self) -> F32:
        """The excess beyond which counts are winsorised."""
        most: F32 = np.maximum(WINSOR_SIGMAS * self.sigma, WINSOR_BATCHES * self.batch)
        return most

    @property
    def batched(self) -> F32:
        """The share of the mean that comes in batches, in messages."""
        result: F32 = np.divide(self.mean + self.extra, 1 + self.batch, dtype=np.float32)
        return result


def spread(mean: F32, scatter: Prior, doubt: F32) -> Spread:
    """`doubt` is the relative variance of the mean itself: what is not yet known of level and profile.

    The third moment belongs to what exceeds a Poisson; of all the variance the batches are only that part as large.
    """
    extra = scatter.psi * mean + (scatter.phi + doubt) * np.square(mean)
    return Spread(mean, extra, np.maximum(scatter.batch * (extra / (mean + extra)), extra / mean))
