"""What the thresholds of a calibration are to achieve, how they are chosen, and what may be promised of them."""

import dataclasses
import math
from typing import Any, Literal, cast, get_args

import numpy as np

from jaxdefect.inference import thresholds
from jaxdefect.types import InputError

PolicyName = Literal["f1", "recall", "cost", "guarantee", "conformal"]
POLICY_NAMES: tuple[PolicyName, ...] = get_args(PolicyName)

# The parameters of each policy and their defaults.
_PARAMETERS: dict[str, dict[str, float]] = {
    "f1": {},
    "recall": {"recall": 0.99},
    "cost": {"cost_ratio": 10.0},
    "guarantee": {"alpha": 0.05, "delta": 0.05},
    "conformal": {"alpha": 0.05},
}
_CONFIDENCE = 0.95  # of what is said about the recall policy, which has no confidence of its own


@dataclasses.dataclass(frozen=True)
class Policy:
    """How thresholds are chosen; `make` fills in defaults and checks.

    "f1": best F1. "recall": the highest threshold that finds at least `recall` of the calibration's defects. "cost":
    the lowest cost, a miss counting `cost_ratio` false alarms. "guarantee": miss rate <= `alpha` with confidence
    1 - `delta` over the draw of the calibration images. "conformal": the probability to miss a new defect, over
    calibration and new image together, <= `alpha`.

    `reject_precision` makes it a three-way decision: what the policy's threshold does not accept is rejected only from
    the score on at which at least this share of the calibration images is defective (1: no false alarm among them), and
    inspected by hand below it. None: two-way, nothing is inspected.
    """

    name: PolicyName = "f1"
    recall: float | None = None
    cost_ratio: float | None = None
    alpha: float | None = None
    delta: float | None = None
    reject_precision: float | None = None

    @property
    def promises(self) -> bool:
        """Whether it is about images not seen yet, so that the calibration's must be like those."""
        return self.name in ("guarantee", "conformal")

    def __str__(self) -> str:
        """In a few words: "recall >= 99 %, three-way"."""
        name = {
            "f1": lambda: "best F1",
            "recall": lambda: "no miss" if self.recall == 1 else f"recall ≥ {percent(self.recall)}",
            "cost": lambda: f"lowest cost, miss : false alarm = {self.cost_ratio:g} : 1",
            "guarantee": lambda: f"miss rate ≤ {percent(self.alpha)}, confidence {percent(1 - (self.delta or 0))}",
            "conformal": lambda: f"miss rate ≤ {percent(self.alpha)} on average",
        }[self.name]()
        if self.reject_precision is None:
            return name
        upper = "no false alarm" if self.reject_precision == 1 else f"precision ≥ {percent(self.reject_precision)}"
        return f"three-way: {name}; {upper}"


BEST_F1 = Policy()


@dataclasses.dataclass(frozen=True)
class Choice:
    """Thresholds chosen: below `threshold` an image is accepted, from `reject_threshold` on rejected; None: the same.

    `promise`: what holds for new images, in a sentence; None: nothing.
    """

    threshold: float
    reject_threshold: float | None
    promise: str | None


def make(name: str, **given: float | None) -> Policy:
    """A policy with the parameters given (None: not given), defaults for the others.

    Raises:
      InputError: no such policy, a parameter that another policy has, or one out of range.
    """
    if name not in _PARAMETERS:
        raise InputError(f"--policy={name}: must be one of {', '.join(POLICY_NAMES)}")
    values = {key: value for key, value in given.items() if value is not None}
    for key, value in values.items():
        if key not in _PARAMETERS[name] and key != "reject_precision":
            owners = " or ".join(f"--policy={owner}" for owner, own in _PARAMETERS.items() if key in own)
            raise InputError(f"--{key}={value:g}: has no meaning with --policy={name}; it belongs to {owners}")
        is_open = key in ("alpha", "delta")
        top = math.inf if key == "cost_ratio" else 1.0
        if not (0 < value < top if is_open or key == "cost_ratio" else 0 < value <= top):
            wanted = "above 0" if key == "cost_ratio" else "above 0 and below 1" if is_open else "above 0, at most 1"
            raise InputError(f"--{key}={value:g}: must be {wanted}")
    return Policy(cast(PolicyName, name), **{**_PARAMETERS[name], **values})


def to_json(policy: Policy) -> dict[str, Any]:
    """The policy's name and its own parameters."""
    return {key: value for key, value in dataclasses.asdict(policy).items() if value is not None}


def choose(policy: Policy, labels: np.ndarray, scores: np.ndarray) -> Choice:
    """The thresholds of a policy from labelled scores.

    Where images may be rejected unseen from a lower score on than the policy asks for, they are: nothing is inspected
    then, and fewer are missed than allowed.

    Args:
      policy: what is wanted.
      labels: [N] of 0 and 1, at least one of them 1.
      scores: [N] in [0, 1].

    Raises:
      InputError: no defective image, or too few to promise what the policy promises (says how many are needed).
    """
    num_defective = int(np.sum(labels))
    if not num_defective:
        raise InputError(f"no defective image among {len(labels)}: no threshold can be chosen; add at least one")
    lower, promise = _choose_lower(policy, labels, scores, num_defective)
    if policy.reject_precision is None:
        return Choice(lower, None, promise)
    upper = thresholds.precise_threshold(labels, scores, precision=policy.reject_precision)
    return Choice(min(lower, upper), upper, promise)


def _choose_lower(
    policy: Policy, labels: np.ndarray, scores: np.ndarray, num_defective: int
) -> tuple[float, str | None]:
    if policy.name == "f1":
        return thresholds.best_f1_threshold(labels, scores), None
    if policy.name == "cost":
        assert policy.cost_ratio is not None
        return thresholds.lowest_cost_threshold(labels, scores, cost_ratio=policy.cost_ratio), None
    num_misses = allowed_misses(policy, num_defective)
    threshold = thresholds.threshold_of_misses(labels, scores, num_misses=num_misses)
    return threshold, _promise(policy, num_misses, num_defective)


def allowed_misses(policy: Policy, num_defective: int) -> int:
    """How many of the calibration's defects a policy that counts misses lets the threshold miss.

    Raises:
      InputError: too few defects for the policy.
    """
    if policy.name == "recall":
        assert policy.recall is not None
        return thresholds.misses_at_recall(num_defective, policy.recall)
    assert policy.alpha is not None
    if policy.delta is None:
        num_misses = thresholds.conformal_misses(num_defective, alpha=policy.alpha)
    else:
        num_misses = thresholds.guaranteed_misses(num_defective, alpha=policy.alpha, delta=policy.delta)
    if num_misses is None:
        raise InputError(_too_few(policy.alpha, policy.delta, num_defective))
    return num_misses


def _too_few(alpha: float, delta: float | None, num_defective: int) -> str:
    """Why there is no such threshold, and what there can be with so many defective images."""
    on_average = thresholds.num_needed_on_average(alpha)
    if delta is None:
        return (
            f"{num_defective} defective images are too few for a miss rate of at most {percent(alpha)} on average: "
            f"{on_average} are needed. What they allow: --alpha={_round_up(1 / (num_defective + 1))}"
        )
    weaker_alpha = thresholds.miss_rate_bound(0, num_defective, delta=delta)
    offers = [f"--alpha={_round_up(weaker_alpha)}", f"--delta={_round_up((1 - alpha) ** num_defective)}"]
    if num_defective >= on_average:
        offers.append(f"--policy=conformal --alpha={alpha:g} (on average over calibrations)")
    return (
        f"{num_defective} defective images are too few to promise a miss rate of at most {percent(alpha)} with "
        f"confidence {percent(1 - delta)}: {thresholds.num_needed(alpha=alpha, delta=delta)} are needed. "
        f"What they allow: {', or '.join(offers)}"
    )


def _promise(policy: Policy, num_misses: int, num_defective: int) -> str:
    """What the order statistic under the threshold says of new defective images."""
    if policy.name == "conformal":
        return (
            f"A new defective image is missed with probability at most {percent(policy.alpha)}, over the draw of the "
            f"{num_defective} defective calibration images and the new one together, if all are exchangeable."
        )
    bound, confidence = policy.alpha, 1 - (policy.delta or 0)
    if policy.name == "recall":
        confidence = _CONFIDENCE
        bound = math.ceil(1000 * thresholds.miss_rate_bound(num_misses, num_defective, delta=1 - confidence)) / 1000
    return (
        f"With confidence {percent(confidence)} over the draw of the {num_defective} defective calibration images (of "
        f"which the threshold may miss {num_misses}), at most {percent(bound)} of all defective images are missed, if "
        "new ones are drawn independently from where those were."
    )


def percent(share: float | None) -> str:
    """0.05 as "5 %", with up to three significant digits."""
    return "n/a" if share is None else f"{float(f'{100 * share:.3g}'):g} %"


def _round_up(value: float) -> str:
    """With three decimals, upwards: what is offered must be possible."""
    return f"{min(math.ceil(value * 1000 + 1e-9) / 1000, 0.999):g}"
