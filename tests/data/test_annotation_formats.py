"""Readers of VIA, COCO and labelme files as these tools write them, and of broken ones."""

import csv
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jaxdefect.data import annotation
from jaxdefect.data.readers import coco, labelme, via
from jaxdefect.types import InputError, Sample

HEIGHT, WIDTH = 20, 30
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def write_images(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 90, np.uint8))
    return root


def mask_of(sample: Sample, mask: Any = None) -> np.ndarray:
    if mask is not None:
        sample = Sample(sample.id, sample.image, mask, 1, "")
    return annotation.load_mask(sample, height=HEIGHT, width=WIDTH)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def turn(path: Path, *, order: str, orientation: int) -> None:
    """Notes an orientation in a JPEG's EXIF, between two other entries."""
    entries = [(0x0110, 2, 4, 0), (0x0112, 3, 1, orientation), (0x0128, 3, 1, 2)]
    content = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    content += b"".join(struct.pack(f"{order}HHIHxx", *entry) for entry in entries) + bytes(4)
    body = b"Exif\0\0" + content
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("reader", ["via", "labelme", "coco"])
def test_regions_on_an_image_that_exif_turns_are_refused(tmp_path: Path, reader: str, order: str):
    path = write_images(tmp_path, "a.jpg") / "a.jpg"
    points = [[2, 3], [8, 3], [8, 7], [2, 7]]
    documents = {
        "via": {"a.jpg99": {"filename": "a.jpg", "regions": [region(RECTANGLE)]}},
        "labelme": {"shapes": [labelled("polygon", points)], "imageHeight": HEIGHT, "imageWidth": WIDTH},
        "coco": {
            "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [list(itertools.chain(*points))]}],
            "categories": [{"id": 1, "name": "dent"}],
        },
    }
    read = {"via": via.read, "labelme": labelme.read, "coco": coco.read}[reader]
    (tmp_path / "a.json").write_text(json.dumps(documents[reader]))
    turn(path, order=order, orientation=1)
    assert [sample.label for sample in read(tmp_path)] == [1]
    write_images(tmp_path, "a.jpg")
    turn(path, order=order, orientation=3)
    with pytest.raises(InputError, match=r"a\.json.*: EXIF turns .*a\.jpg \(orientation 3\)"):
        read(tmp_path)


# --- VIA


VIA_COLUMNS = "#filename file_size file_attributes region_count region_id region_shape_attributes region_attributes"
RECTANGLE = {"name": "rect", "x": 2, "y": 3, "width": 6, "height": 4}
POLYGON = {"name": "polygon", "all_points_x": [10, 20, 20, 10], "all_points_y": [1, 1, 5, 5]}
VIA_SHAPES = {  # shape, the mask it stands for
    "rect": (RECTANGLE, box(2, 3, 8, 7)),
    "polygon": (POLYGON, box(10, 1, 20, 5)),
    "circle": ({"name": "circle", "cx": 15, "cy": 10, "r": 5.2}, np.hypot(COLUMNS - 15, ROWS - 10) <= 5.2),
    "ellipse": (
        {"name": "ellipse", "cx": 15, "cy": 10, "rx": 8, "ry": 3},
        ((COLUMNS - 15) / 8) ** 2 + ((ROWS - 10) / 3) ** 2 <= 1,
    ),
    "turned ellipse": (
        {"name": "ellipse", "cx": 15, "cy": 10, "rx": 8, "ry": 3, "theta": np.pi / 2},
        ((COLUMNS - 15) / 3) ** 2 + ((ROWS - 10) / 8) ** 2 <= 1,
    ),
    "polyline": ({"name": "polyline", "all_points_x": [2.5, 8.5], "all_points_y": [4.5, 4.5]}, box(2, 4, 9, 5)),
    "point": ({"name": "point", "cx": 7, "cy": 9}, box(7, 9, 8, 10)),
}


def via_records(*regions: dict, is_first_version: bool = False) -> dict[str, Any]:
    """a.png with the regions and b.png without, as version 1 or 2 writes them."""

    def record(name: str, listed: list[dict]) -> dict[str, Any]:
        numbered = {str(i): region for i, region in enumerate(listed)} if is_first_version else listed
        return {"filename": name, "size": 99, "regions": numbered, "file_attributes": {}}

    return {"a.png99": record("a.png", list(regions)), "b.png99": record("b.png", [])}


def region(shape: dict, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def write_via(root: Path, document: Any, *, name: str = "via.json") -> Path:
    write_images(root, "a.png", "images/b.png", "unlisted.png")
    (root / name).write_text(json.dumps(document))
    return root


def write_via_csv(root: Path, *regions: dict) -> Path:
    write_images(root, "a.png", "images/b.png")
    with open(root / "via.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(VIA_COLUMNS.split())
        for number, each in enumerate(regions):
            parts = [json.dumps(each[key]) for key in ("shape_attributes", "region_attributes")]
            writer.writerow(["a.png", 99, "{}", len(regions), number, *parts])
        writer.writerow(["b.png", 99, "{}", 0, 0, "{}", "{}"])
    return root


def test_via_in_every_file_it_writes(tmp_path: Path):
    regions = [region(RECTANGLE, Type="scratch", size="3"), region(POLYGON, Type="dent"), region(POLYGON, Type="")]
    records = via_records(*regions)
    write_via(tmp_path / "export", records)
    write_via(tmp_path / "first", via_records(*regions, is_first_version=True))
    write_via(tmp_path / "project", {"_via_settings": {}, "_via_img_metadata": records, "_via_attributes": {}})
    write_via_csv(tmp_path / "table", *regions)
    for name in ("export", "first", "project", "table"):
        a, b = via.read(tmp_path / name)
        assert (a.id, a.group, a.label, a.classes) == ("a", "a", 1, ("dent", "scratch"))
        assert (b.id, b.label, b.mask, b.classes) == ("b", 0, None, ())
        np.testing.assert_array_equal(mask_of(a), box(2, 3, 8, 7) | box(10, 1, 20, 5))
        np.testing.assert_array_equal(mask_of(a, dict(a.class_masks)["scratch"]), box(2, 3, 8, 7))
        np.testing.assert_array_equal(mask_of(a, dict(a.class_masks)["dent"]), box(10, 1, 20, 5))


@pytest.mark.parametrize("name", VIA_SHAPES)
def test_via_shapes(tmp_path: Path, name: str):
    shape, expected = VIA_SHAPES[name]
    sample = via.read(write_via(tmp_path, via_records(region(shape))))[0]
    np.testing.assert_array_equal(mask_of(sample), expected)


def test_via_class_is_the_only_attribute_or_the_ticked_box(tmp_path: Path):
    regions = [region(RECTANGLE, flaw="scratch"), region(POLYGON, flaw={"dent": True, "scratch": False})]
    assert via.read(write_via(tmp_path, via_records(*regions)))[0].classes == ("dent", "scratch")


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([region(RECTANGLE), region({"name": "rect", "x": 2})], r"image a\.png, region 1: 'y' must be int or float"),
        ([region({**POLYGON, "all_points_x": [1, 2]})], r"image a\.png, region 0: 2 x but 4 y coordinates"),
        ([region({**POLYGON, "all_points_x": [1, 2, 3, "4"]})], r"region 0: '4' is not a coordinate"),
        (
            [region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]})],
            r"region 0: a polygon of 4 coord",
        ),
        ([region({"name": "circle", "cx": 1, "cy": 1, "r": 0})], r"region 0: radii of 0 and 0 pixels"),
        ([region({"name": "spline"})], r"region 0: unknown shape 'spline'; known are rect"),
        ([region({"x": 1})], r"region 0: 'name' must be str, not None"),
        ([region(RECTANGLE, a="1", b="2")], r"via\.\w+: which of the region attributes a, b is the class\?"),
        ([region(RECTANGLE, type={"a": True, "b": True})], r"region 0: a and b are ticked"),
    ],
)
@pytest.mark.parametrize("is_table", [False, True])
def test_via_mistakes_name_image_and_region(tmp_path: Path, is_table: bool, regions: list[dict], message: str):
    root = write_via_csv(tmp_path, *regions) if is_table else write_via(tmp_path, via_records(*regions))
    with pytest.raises(InputError, match=message):
        via.read(root)


def test_via_records_that_lack_a_part_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"via\.json, image a\.png, region 0: 'region_attributes' must be dict"):
        via.read(write_via(tmp_path / "json", via_records({"shape_attributes": RECTANGLE})))
    root = write_via_csv(tmp_path / "csv", region(RECTANGLE))
    table = root / "via.csv"
    table.write_text(table.read_text().replace('""name"": ""rect""', '""name"": rect'))
    with pytest.raises(InputError, match=r"via\.csv, line 2, image a\.png, region 0: .* is not JSON"):
        via.read(root)
    table.write_text(table.read_text().splitlines()[0] + "\na.png,99\n")
    with pytest.raises(InputError, match=r"via\.csv, line 2: as many columns"):
        via.read(root)


def test_via_files_of_one_name_are_not_united(tmp_path: Path):
    records = via_records(region(RECTANGLE))
    records["a.png98"] = {**records["a.png99"], "size": 98, "regions": []}
    with pytest.raises(InputError, match=r"entry 'a\.png98': a\.png has another entry"):
        via.read(write_via(tmp_path / "json", records))
    root = write_via_csv(tmp_path / "csv", region(RECTANGLE), region(POLYGON))
    table = root / "via.csv"
    table.write_text(table.read_text().replace("a.png,99", "a.png,98", 1))
    with pytest.raises(InputError, match=r"line 3: a\.png has another file size before"):
        via.read(root)


def test_via_files_that_cannot_serve_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no annotation file \(\*\.json or \*\.csv\)"):
        via.read(tmp_path)
    write_via(tmp_path, via_records(region(RECTANGLE)))
    (tmp_path / "old.csv").write_text("")
    with pytest.raises(InputError, match=r"2 annotation files \(old\.csv, via\.json\) where one is wanted"):
        via.read(tmp_path)
    (tmp_path / "via.json").unlink()
    with pytest.raises(InputError, match=r"old\.csv, line 1: no column 'filename'"):
        via.read(tmp_path)
    (tmp_path / "old.csv").unlink()
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[" * 10**5, "cannot be read as JSON"),
        ('{"project": {}}', "not the annotations of VIA 1 or 2"),
    ):
        (tmp_path / "via.json").write_text(text)
        with pytest.raises(InputError, match=rf"via\.json: {message}"):
            via.read(tmp_path)
    write_via(tmp_path, via_records(region(RECTANGLE)))
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"via\.json, image a\.png: the image 'a\.png' is neither in"):
        via.read(tmp_path)


# --- COCO


def encode_counts(counts: list[int]) -> str:
    """COCO's compressed run lengths, after its description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text


def counts_of(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *changes, flat.size]).tolist()


def write_coco(root: Path, *annotations: dict, folder: str = "") -> Path:
    write_images(root, "images/a.png", "images/more/b.png")
    document = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "more/b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [{"id": 100 + i, "image_id": 7, "category_id": 1, **each} for i, each in enumerate(annotations)],
        "categories": [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}],
    }
    (root / folder).mkdir(exist_ok=True)
    (root / folder / "instances.json").write_text(json.dumps(document))
    return root


def test_coco_polygons_and_both_kinds_of_run_lengths(tmp_path: Path):
    blob = cv2.GaussianBlur(np.random.default_rng(3).random((HEIGHT, WIDTH)), (0, 0), 2) > 0.52
    spots = np.random.default_rng(4).random((HEIGHT, WIDTH)) > 0.8
    assert 5 < len(counts_of(blob)) < len(counts_of(spots))
    polygons = {"segmentation": [[2, 3, 8, 3, 8, 7, 2, 7], [20, 10, 25, 10, 25, 15, 20, 15]]}
    plain = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts_of(blob)}, "iscrowd": 1, "category_id": 2}
    packed = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": encode_counts(counts_of(spots))}, "category_id": 2}
    a, b = coco.read(write_coco(tmp_path, polygons, plain, packed, folder="annotations"))
    assert (a.id, a.label, a.classes) == ("a", 1, ("dent", "scratch"))
    assert (b.id, b.label, b.mask, b.classes) == ("more/b", 0, None, ())
    outlined = box(2, 3, 8, 7) | box(20, 10, 25, 15)
    np.testing.assert_array_equal(mask_of(a), outlined | blob | spots)
    np.testing.assert_array_equal(mask_of(a, dict(a.class_masks)["scratch"]), outlined)
    np.testing.assert_array_equal(mask_of(a, dict(a.class_masks)["dent"]), blob | spots)


def test_coco_compressed_counts():
    # The description's own arithmetic by hand: 6 -> "6"; 40 = 8 + 1 * 32 -> "X1"; 4 -> "4"; then differences
    # 39 - 40 = -1 -> "O" and 5 - 4 = 1 -> "1".
    assert coco.decode_counts("6X14O1") == [6, 40, 4, 39, 5]
    for counts in ([0, 3, 9999999, 1, 2], [5], list(itertools.accumulate([1, 77, 5000]))):
        assert coco.decode_counts(encode_counts(counts)) == counts
    for broken in ("6X", "6 1", "6é"):
        with pytest.raises(ValueError, match="compressed run lengths"):
            coco.decode_counts(broken)


SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("annotation_record", "message"),
    [
        ({"bbox": [1, 1, 2, 2]}, r"annotation 101: has no segmentation \(a box alone does not do\)"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, r"annotation 101: a polygon of 5 coordinates"),
        ({"segmentation": [1, 1, 5, 5, 9, 9]}, r"annotation 101: 'segmentation' must be a list of polygons"),
        ({"segmentation": [[1, 1, 5, None, 9, 9]]}, r"annotation 101: None is not a coordinate"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, r"annotation 101: run lengths of size \[30, 20\]"),
        ({"segmentation": {"size": SIZE, "counts": [1, 2]}}, r"annotation 101: the run lengths add up to 3 pixels"),
        ({"segmentation": {"size": SIZE, "counts": [601, -1]}}, r"annotation 101: a run length is not a number"),
        ({"segmentation": {"size": SIZE, "counts": "6X"}}, r"annotation 101: the compressed run lengths end"),
        ({"segmentation": {"size": SIZE}}, r"annotation 101: 'counts' must be list or str"),
        ({"category_id": 3}, r"annotation 101: there is no category 3"),
        ({"image_id": 8}, r"annotation 101: there is no image 8"),
    ],
)
def test_coco_mistakes_name_the_annotation(tmp_path: Path, annotation_record: dict, message: str):
    good = {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    with pytest.raises(InputError, match=rf"instances\.json, {message}"):
        coco.read(write_coco(tmp_path, good, annotation_record))


def test_coco_images_are_held_against_the_file(tmp_path: Path):
    write_coco(tmp_path, {"segmentation": [[1, 1, 5, 1, 5, 5]]})
    assert cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((WIDTH, HEIGHT), np.uint8))
    with pytest.raises(InputError, match=r"instances\.json, image 7: drawn on an image of 20 x 30 .*a\.png is 30 x 20"):
        coco.read(tmp_path)
    (tmp_path / "instances.json").write_text('{"images": []}')
    with pytest.raises(InputError, match=r"instances\.json: 'annotations' must be list"):
        coco.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "record", "message"),
    [
        ("images", {"id": 7, "file_name": "more/b.png"}, r"images: two images have the id 7"),
        ("categories", {"id": 2, "name": "stain"}, r"categories: 'dent' and 'stain' have one id, 2"),
    ],
)
def test_coco_ids_that_stand_for_two_things_are_refused(tmp_path: Path, key: str, record: dict, message: str):
    path = write_coco(tmp_path, {"segmentation": [[1, 1, 5, 1, 5, 5]]}) / "instances.json"
    document = json.loads(path.read_text())
    document[key].append(record)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"instances\.json, {message}"):
        coco.read(tmp_path)


# --- labelme


LABELME_SHAPES = {
    "polygon": ([[10, 1], [20, 1], [20, 5], [10, 5]], box(10, 1, 20, 5)),
    "rectangle": ([[8, 7], [2, 3]], box(2, 3, 8, 7)),
    "circle": ([[15, 10], [18, 14]], np.hypot(COLUMNS - 15, ROWS - 10) <= 5),
    "line": ([[2.5, 4.5], [8.5, 4.5]], box(2, 4, 9, 5)),
    "linestrip": ([[2.5, 4.5], [8.5, 4.5], [8.5, 9.5]], box(2, 4, 9, 5) | box(8, 4, 9, 10)),
    "point": ([[7.2, 9.9]], box(7, 9, 8, 10)),
}


def write_labelme(root: Path, *shapes: dict, **changes: Any) -> Path:
    write_images(root, "a.png", "b.png")
    document = {"version": "5.2.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
    document |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}
    (root / "a.json").write_text(json.dumps(document))
    return root


def labelled(kind: str | None, points: list, label: str = "dent") -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


@pytest.mark.parametrize("kind", LABELME_SHAPES)
def test_labelme_shapes(tmp_path: Path, kind: str):
    points, expected = LABELME_SHAPES[kind]
    a, b = labelme.read(write_labelme(tmp_path, labelled(kind, points)))
    assert (a.id, a.label, a.classes) == ("a", 1, ("dent",))
    assert (b.id, b.label, b.mask) == ("b", 0, None)
    np.testing.assert_array_equal(mask_of(a), expected)


def test_labelme_classes_and_images_in_a_folder_of_their_own(tmp_path: Path):
    shapes = [labelled("rectangle", [[2, 3], [8, 7]], "scratch"), labelled(None, LABELME_SHAPES["polygon"][0])]
    write_labelme(tmp_path, *shapes)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    a, _ = labelme.read(tmp_path)
    assert a.classes == ("dent", "scratch")
    np.testing.assert_array_equal(mask_of(a, dict(a.class_masks)["scratch"]), box(2, 3, 8, 7))
    np.testing.assert_array_equal(mask_of(a), box(2, 3, 8, 7) | box(10, 1, 20, 5))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (labelled("rectangle", [[1, 1]]), r"shape 1: a rectangle of 1 points where 2 are wanted"),
        (labelled("polygon", [[1, 1], [2, 2]]), r"shape 1: a polygon of 4 coordinates"),
        (labelled("polygon", [[1, 1], [2, 2], [3]]), r"shape 1: a point is not a pair of x and y"),
        (labelled("line", [[1, 1], [2, "2"]]), r"shape 1: '2' is not a coordinate"),
        (labelled("circle", [[1, 1], [1, 1]]), r"shape 1: radii of 0 and 0 pixels"),
        (labelled("cuboid", [[1, 1]]), r"shape 1: unknown shape type 'cuboid'; known are polygon"),
        ({"points": []}, r"shape 1: 'label' must be str"),
        (3, r"shape 1: 'label' must be str"),
    ],
)
def test_labelme_mistakes_name_the_shape(tmp_path: Path, shape: Any, message: str):
    with pytest.raises(InputError, match=rf"a\.json, {message}"):
        labelme.read(write_labelme(tmp_path, labelled("point", [[1, 1]]), shape))


def test_labelme_files_that_cannot_serve_are_named(tmp_path: Path):
    write_labelme(tmp_path, labelled("point", [[1, 1]]), imageHeight=WIDTH, imageWidth=HEIGHT)
    with pytest.raises(InputError, match=r"a\.json: drawn on an image of 30 x 20 .*a\.png is 20 x 30"):
        labelme.read(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match=r"a\.json: 'shapes' must be list"):
        labelme.read(tmp_path)
    (tmp_path / "a.json").rename(tmp_path / "z.json")
    with pytest.raises(InputError, match=r"z\.json: no image of this name"):
        labelme.read(tmp_path)


def test_labelme_files_are_found_in_any_case_and_once(tmp_path: Path):
    write_labelme(tmp_path, labelled("point", [[1, 1]]))
    (tmp_path / "a.json").rename(tmp_path / "a.JSON")
    (tmp_path / "._a.json").write_bytes(b"\0\5\x16\7")  # of macOS
    assert labelme.read(tmp_path)[0].label == 1
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.json").write_text('{"shapes": []}')
    with pytest.raises(InputError, match=r"images/a\.json: .*/a\.JSON has annotations of the same image; remove one"):
        labelme.read(tmp_path)
