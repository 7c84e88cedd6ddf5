r"""Without any mask: may the decision's gradient train the segmentation network (joint training, Božič 2021)?

Command:
  python -m launch.ablate --config=configs/severstal_weak.py:num_positives=300 \
    --study=configs/studies/stop_gradient.py --config.data.root=severstal --workdir=runs/studies
All published runs stop it. With no mask at all it is then only the good images that train the segmentation network, and
the decision network sees features that no defect has shaped. The papers do not compare the two; Bi 2022 has 0.932 AP
with 300 defective images, stopped.
"""


def get_study() -> dict:
    switches = {"on": True, "off": False}
    return {"axes": {"stop gradient": [{name: {"model.stop_gradient": on}} for name, on in switches.items()]}}
