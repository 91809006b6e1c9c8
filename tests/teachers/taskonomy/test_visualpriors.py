"""Our teacher against the published PyTorch package of the same networks.

For developers: needs the packages torch and visualpriors, which soka_tf does not.
"""

import numpy as np
import pytest
from PIL import Image

from soka_tf.networks.named_variables import named_variables
from soka_tf.teachers import load_teacher
from soka_tf.teachers.taskonomy.visual_prior import load_visual_prior, own_name
from tests.encode_rgb import encode_rgb
from tests.tools import run_tool

torch = pytest.importorskip("torch", reason="needs torch, for developers only")
visualpriors = pytest.importorskip(
    "visualpriors.taskonomy_network", reason="needs visualpriors, for developers only"
)
CHANNELS = {"normal": 3, "reshading": 1}


@pytest.fixture(scope="module")
def photographs(shared_folder):
    """Two real photographs, float32 [2, 256, 256, 3] in [-1, 1]."""
    paths = [
        shared_folder / "golden" / "photo_test_256.png",
        shared_folder / "real_rgbd/desk/rgb/point_1_view_5_domain_rgb.png",
    ]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return np.stack([encode_rgb(image, 256) for image in pixels])


def randomise(network, generator):
    """Draws all weights so that activations neither vanish nor explode."""
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim == 4:
            gain = 0.25 if "conv3.weight" in name and "layer" in name else 1.0
            deviation = gain * (2 / tensor[0].numel()) ** 0.5
            tensor.normal_(0, deviation, generator=generator)
        elif name.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)


@pytest.fixture(scope="module", params=CHANNELS)
def pair(request, tmp_path_factory):
    """The package's network, its files saved by torch, and the task."""
    task = request.param
    folder = tmp_path_factory.mktemp(task)
    network = visualpriors.TaskonomyNetwork(out_channels=CHANNELS[task]).eval()
    randomise(network, torch.Generator().manual_seed(11))
    files = {}
    for part in ("encoder", "decoder"):
        files[part] = folder / f"{part}.pth"
        state = {"state_dict": getattr(network, part).state_dict()}
        legacy = part == "encoder"  # one of each format
        torch.save(state, files[part], _use_new_zipfile_serialization=not legacy)
    return task, network, files


def test_converted_teacher_agrees_with_the_package_on_photographs(
    pair, photographs, tmp_path, capsys
):
    task, network, files = pair
    done = run_tool(
        "convert_teacher",
        f"--task={task}",
        *(f"--visual_prior_{part}={path}" for part, path in files.items()),
        f"--out={tmp_path}",
        capsys=capsys,
    )
    assert done.code == 0, done.err
    ours = load_teacher(tmp_path / f"{task}.safetensors")(photographs)
    with torch.no_grad():
        inputs = torch.from_numpy(photographs.transpose(0, 3, 1, 2).copy())
        representation = network.encoder(inputs)
        prediction = network.decoder(representation)
    for name, theirs in (
        ("representation", representation),
        ("prediction", prediction),
    ):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        assert theirs.std() > 0.05  # it says something
        np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-4)


def test_every_tensor_of_the_package_is_used(pair):
    task, network, files = pair
    teacher, _ = load_visual_prior(task, files["encoder"], files["decoder"])
    for part in ("encoder", "decoder"):
        keys = {
            f"{part}: {key}"
            for key in getattr(network, part).state_dict()
            if not key.endswith("num_batches_tracked")
        }
        paths = named_variables(getattr(teacher, part))
        assert keys == {own_name(part, path) for path in paths}
