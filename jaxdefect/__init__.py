"""Surface-defect inspection in JAX: segmentation-based detectors, from images and a few masks to decisions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdefect.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported only when asked for: data workers import this package, and they must not import JAX.
    if name == "Predictor":
        from jaxdefect.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
