r"""SegDecNet's segmentation network, U-Net or DeepLabv3+ under the same decision network (Tabernik et al. 2019).

Command:
  python -m launch.ablate --config=configs/kolektor_unet.py:segdec --study=configs/studies/segmentation.py \
    --config.data.root=KolektorSDD --workdir=runs/studies
Paper, KolektorSDD, three folds, each at its best dilation: AP and false positives at full recall are 99.9 % and 3 for
SegDecNet, 98.0 % and 68 for DeepLabv3+ (pretrained there), 96.1 % and 108 for U-Net.
"""


def get_study() -> dict:
    dilations = {"segdec": 5, "unet": 9, "deeplab": 9}
    parts = [{name: {"model.segmentation": name, "data.dilation_px": side}} for name, side in dilations.items()]
    return {"axes": {"segmentation": parts}}
