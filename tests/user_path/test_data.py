"""lockstep data: import, inspect and bench, as a person uses them."""
import gzip
import json
import os
import struct
import sys

import h5py
import numpy

from util import Place, run_tests, write_data


def complains(result, codes, *words):
    assert result.returncode in codes, result
    assert result.stderr.startswith("lockstep: ") and result.stderr.count("\n") == 1, result
    for word in words:
        assert word in result.stderr, (word, result.stderr)


def write_idx(path, array):
    with (gzip.open(path, "wb") if path.endswith(".gz") else open(path, "wb")) as file:
        file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def write_mnist(folder, train=50, test=20):
    random = numpy.random.default_rng(3)
    os.makedirs(folder)
    parts = {}
    for prefix, count in (("train", train), ("t10k", test)):
        parts[prefix] = (random.integers(0, 256, (count, 28, 28), dtype=numpy.uint8),
                         (numpy.arange(count) % 10).astype(numpy.uint8))
        write_idx(f"{folder}/{prefix}-images-idx3-ubyte.gz", parts[prefix][0])
        write_idx(f"{folder}/{prefix}-labels-idx1-ubyte.gz", parts[prefix][1])
    return parts


def test_import_inspect_bench():
    with Place() as place:
        parts = write_mnist(place.path("fashion"))
        result = place.run("data", "import", "fashion", "f.h5")
        assert result.returncode == 0 and "/train: 50 images" in result.stdout and not result.stderr, result
        with h5py.File(place.path("f.h5")) as file:
            assert (file["train/images"][..., 0] == parts["train"][0]).all()
            assert (file["test/labels"][:] == parts["t10k"][1]).all()
            assert abs(file["train"].attrs["mean"][0] - parts["train"][0].mean()) < 1e-3
            assert file.attrs["class_names"][9] == "Ankle boot"
        again = json.loads(place.run("data", "import", "fashion", "f.h5", "-o", "json").stdout)
        assert again["unchanged"] and again["train"] == 50, again
        shown = json.loads(place.run("data", "inspect", "f.h5", "-o", "json").stdout)
        groups = {group["name"]: group for group in shown["groups"]}
        assert groups["/train"]["usable"] and groups["/train"]["images"] == 50, groups
        assert groups["/train"]["classes"][3] == {"label": 3, "images": 5, "share": 0.1, "name": "Dress"}
        text = place.run("data", "inspect", "f.h5").stdout
        assert 'data: {train: "f.h5:/train", validation: "f.h5:/test"}' in text and "contiguous" in text, text
        bench = json.loads(place.run("data", "bench", "f.h5:/train", "--crop", "24", "--flip", "--batch", "16", "--seconds",
                                     "0.2", "-o", "json").stdout)
        assert bench["images_per_s"] > 0 and bench["bytes_per_s"] > 0 and bench["cpu_s_per_1000_images"] > 0, bench


def test_wrong():
    with Place() as place:
        complains(place.run("data", "import", "nothing", "x.h5"), (4,), "nothing")
        os.mkdir(place.path("empty"))
        complains(place.run("data", "import", "empty", "x.h5"), (2,), "empty", "IDX")
        complains(place.run("data", "inspect", "nothing.h5"), (4,), "nothing.h5")
        write_data(place.path("d.h5"))
        complains(place.run("data", "inspect", "d.h5:/trian"), (4,), "/trian")
        complains(place.run("data", "bench", "d.h5:/train", "--crop", "29"), (2,), "29x29", "28x28")
        complains(place.run("data", "bench", "d.h5"), (4,), "images")
        assert not os.path.exists(place.path("x.h5"))


def test_inspect_anything():
    """Files that no job can use are shown too, with the reason."""
    with Place() as place:
        with h5py.File(place.path("any.h5"), "w") as file:
            file["a/b/c"] = numpy.zeros((3, 4), numpy.float32)
            file.create_dataset("packed/images", (4, 2, 2, 1), "u1", chunks=(1, 2, 2, 1), compression="gzip")
            file["packed/link"] = h5py.ExternalLink("other.h5", "/x")
            file["text"] = "hello"
        shown = json.loads(place.run("data", "inspect", "any.h5", "-o", "json").stdout)
        groups = {group["name"]: group for group in shown["groups"]}
        assert not groups["/a/b"]["usable"] and groups["/a/b"]["datasets"][0]["type"] == "float32", groups
        storage = {d["name"]: d["storage"] for d in groups["/packed"]["datasets"]}
        assert storage["images"].startswith("chunked 1x2x2x1, deflate") and "another file" in storage["link"], storage


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
