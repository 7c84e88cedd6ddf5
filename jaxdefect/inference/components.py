"""From a map to defects: connected components, those close to each other joined into one."""

import cv2
import numpy as np
from scipy import ndimage, sparse

from jaxdefect.types import Defect, Window


def find_defects(
    probability: np.ndarray, *, threshold: float, join_distance_px: float
) -> tuple[np.ndarray, list[Defect]]:
    """The connected components (8 neighbours) of the pixels at or above a threshold.

    Components are one defect if some pixel of one is closer than `join_distance_px` to some pixel of the other
    (Euclidean, from middle to middle: 1 for neighbours, so that up to the square root of 2 nothing is joined), and so
    are those that are joined to the same one.

    Args:
      probability: [H, W] float, of any range.
      threshold: the smallest value that belongs to a defect.
      join_distance_px: 4 in the paper; 0 joins nothing.

    Returns:
      [H, W] int32, 0 where there is no defect, k for the k-th; and the defects in that order.

    References:
      He, Liu: Deep regression neural network for industrial surface defect detection (2020), section III-A-3.
    """
    count, components = cv2.connectedComponents(
        (probability >= threshold).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    first, second = _close_pairs(components, distance_px=join_distance_px)
    pairs = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, groups = sparse.csgraph.connected_components(pairs, directed=False)
    # The groups are numbered by their first component, so the background, component 0 and joined to none, is group 0.
    labels = groups.astype(np.int32)[components]
    return labels, _describe(labels, probability)


def _close_pairs(components: np.ndarray, *, distance_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of components with a pixel of one nearer than `distance_px` to a pixel of the other, [K] and [K].

    Exact, and cheap for a small distance: the nearest pixels of two components lie on their edges, so it is enough to
    look from every edge pixel at what stands at each offset shorter than the distance. One direction of each offset
    serves, since the other component looks too.
    """
    reach = max(int(np.ceil(distance_px)) - 1, 0)
    rows, columns = np.mgrid[0 : reach + 1, -reach : reach + 1]
    is_wanted = (rows**2 + columns**2 < distance_px**2) & ((rows > 1) | (np.abs(columns) > 1))  # neighbours are joined
    padded = np.pad(components, reach)
    is_defect = (components > 0).astype(np.uint8)
    is_edge = is_defect > cv2.erode(is_defect, np.ones((3, 3), np.uint8))
    edge_rows, edge_columns = (index + reach for index in np.nonzero(is_edge))
    own = padded[edge_rows, edge_columns]
    first, second = [], []
    for row, column in zip(rows[is_wanted], columns[is_wanted], strict=True):
        other = padded[edge_rows + row, edge_columns + column]
        is_pair = (other > 0) & (other != own)
        first.append(own[is_pair])
        second.append(other[is_pair])
    none = np.zeros(0, np.int32)
    return np.concatenate([none, *first]), np.concatenate([none, *second])


def _describe(labels: np.ndarray, probability: np.ndarray) -> list[Defect]:
    boxes = ndimage.find_objects(labels)
    pixels = np.flatnonzero(labels)  # few of all
    owners, values = labels.ravel()[pixels] - 1, probability.ravel()[pixels]
    areas = np.bincount(owners, minlength=len(boxes))
    means = np.bincount(owners, weights=values, minlength=len(boxes)) / areas
    maxima = np.full(len(boxes), -np.inf)
    np.maximum.at(maxima, owners, values)
    return [
        Defect(
            label=label,
            box=Window(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start),
            area_px=int(area),
            mean=float(mean),
            maximum=float(maximum),
        )
        for label, ((rows, columns), area, mean, maximum) in enumerate(
            zip(boxes, areas, means, maxima, strict=True), start=1
        )
    ]
